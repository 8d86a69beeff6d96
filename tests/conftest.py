"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trace_builder import VERSIONS


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
