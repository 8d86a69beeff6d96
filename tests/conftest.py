"""Fixtures that several test files share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dsprof.nsys.command import run_nsys
from nsys_stats import PRIMARY, Nsys, require
from trace_builder import VERSIONS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run nsys 2022.4 go to one worker: it keeps a file for the whole machine in /dev/shm."""
    for item in items:
        if "2022.4" in item.name and item.get_closest_marker("nsys"):
            item.add_marker(pytest.mark.xdist_group("nsys-2022.4"))


@pytest.fixture(params=VERSIONS)
def schema(request: pytest.FixtureRequest) -> str:
    """Every nsys version whose tables are known, one after another."""
    return request.param


@pytest.fixture(scope="session")
def tiny_model() -> tuple[Any, Any]:
    """The tiny model and its processor, built once; whoever uses it leaves it as it was."""
    import models
    from dsprof.workloads import tiny

    assert models.torch.get_num_threads() == 1
    return tiny.build()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny model, to be read only."""
    import models
    from dsprof.workloads import tiny

    assert models.torch.get_num_threads() == 1
    return tiny.save(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def primary() -> Nsys:
    return require(PRIMARY)


@pytest.fixture(scope="session")
def recorded(primary: Nsys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small report that the real nsys made."""
    path = tmp_path_factory.mktemp("recorded") / "run.nsys-rep"
    program = [sys.executable, "-m", "dsprof.workloads.toy", "1", "4"]
    for _ in range(3):  # 2022.4 hangs now and then while it imports
        profile = ["profile", "--trace=nvtx", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true"]
        outcome = run_nsys(primary.path, [*profile, "-o", str(path), *program], limit_s=60)
        if outcome.code == 0 and path.is_file():
            return path
    pytest.fail(outcome.said)
