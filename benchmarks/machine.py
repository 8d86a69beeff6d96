"""What a measurement was made on: the processor, the memory, the versions. No host name, no path."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
from importlib.metadata import version
from pathlib import Path

from dsprof.arrays import backend
from dsprof.nsys.command import nsys_version


def describe(nsys: Path | None) -> dict[str, str]:
    """Words and their values, in the order in which they are printed."""
    memory = int(_first(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo")) or 0) * 1024
    return {
        "processor": _first(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo")) or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 1e9:.1f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "numpy": version("numpy"),
        "pyarrow": version("pyarrow"),
        "numba": version("numba") if backend.is_installed() else "none",
        "SQLite": sqlite3.sqlite_version,
        "nsys": (nsys_version(nsys) or "of unknown version") if nsys else "none",
        "dsprof": _commit() or version("dsprof"),
    }


def load() -> str:
    """The machine's load: processes that ran or waited, over the last 1, 5 and 15 minutes."""
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def _first(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text()) if path.is_file() else None
    return found.group(1).strip() if found else ""


def _commit() -> str:
    """The commit that is measured, with a word on changes that are not in it; empty outside of a repository."""
    source = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(source), "describe", "--always", "--dirty= with changes", "--abbrev=10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
