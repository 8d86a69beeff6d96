"""Versions: of dsprof, and of packages as their metadata say them."""

from __future__ import annotations

#: Of dsprof: the release is built with it.
VERSION = "0.2.0"


def installed(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package) or ""
    except PackageNotFoundError:
        return ""


def our_version() -> str:
    """The version of dsprof, which needs no look at what is installed."""
    return VERSION
