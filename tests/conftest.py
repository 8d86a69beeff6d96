"""Fixtures that several test files share."""

from __future__ import annotations

import pytest

from trace_builder import VERSIONS


@pytest.fixture(params=VERSIONS)
def schema(request: pytest.FixtureRequest) -> str:
    """Every nsys version whose tables are known, one after another."""
    return request.param
