"""Versions of packages as their metadata say them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return version(package) or ""
    except PackageNotFoundError:
        return ""


def our_version() -> str:
    """The version of dsprof; ``unknown`` where it runs from its sources and is not installed."""
    return installed("dsprof") or "unknown"
