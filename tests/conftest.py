"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import nsys_stats
from nsys_stats import PRIMARY, Nsys, require
from trace_builder import VERSIONS

# Random examples are new ones each time on a developer's machine, and the same ones on that which judges a change.
settings.register_profile("judge", derandomize=True)
if "CI" in os.environ:
    settings.load_profile("judge")


# A shell starts its background jobs deaf to Ctrl-C, and all that they start; tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before xdist writes the groups behind the tests' names
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that record go to one worker, one after another; those of the oracle only ask nsys for its numbers.

    nsys fails now and then where several record at once on a busy machine, and 2022.4 keeps a file for the whole
    machine in /dev/shm.
    """
    if not config.pluginmanager.has_plugin("xdist"):
        return
    for item in items:
        if item.get_closest_marker("nsys") and item.path.name != "test_oracle.py":
            item.add_marker(pytest.mark.xdist_group("nsys"))


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Exports that dsprof keeps go to a folder of the tests, and not to that of whoever runs them."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSPROF_CACHE", str(folder))
        yield folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which nothing is yet."""
    path = tmp_path / "cache"
    path.mkdir()
    monkeypatch.setenv("DSPROF_CACHE", str(path))
    return path


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
    return nsys_stats.record(primary, path, [sys.executable, "-m", "dsprof.workloads.toy", "1", "4"])
