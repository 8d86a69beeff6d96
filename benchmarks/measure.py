"""What a whole process takes: wall time, CPU time, peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

_LAUNCHER = Path(__file__).with_name("launcher.py")
#: Seconds after which a process is ended: several times what the slowest one took (`nsys stats` at 10 M kernels).
LIMIT_S = 3600


class Run(NamedTuple):
    """One process, from its start to its end."""

    wall_s: float
    cpu_s: float  # user and system, with all children
    peak_bytes: int  # of the largest single process


class RunFailed(Exception):
    """A process that ended with an error or was ended, with the last of what it said."""


def as_installed() -> dict[str, str]:
    """The environment, but Python keeps what it compiled, as it is of an installed package, and buffers its output."""
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def sources_of(commit: str, folder: Path) -> Path:
    """The sources of a commit of this checkout, unpacked into a folder; of another checkout, whose folder is named."""
    if Path(commit, "src").is_dir():
        return Path(commit, "src").resolve()
    git = ["git", "-C", str(Path(__file__).resolve().parents[1]), "archive", commit, "src"]
    packed = subprocess.run(git, stdout=subprocess.PIPE, check=False)
    if packed.returncode:
        raise SystemExit(f"{commit} is no commit of this checkout, and no folder of another one.")
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def run(command: Sequence[str], limit_s: int = LIMIT_S) -> Run:
    """Run `command` in an own TMPDIR, its output aside; `command[0]` is a path. Raises `RunFailed`."""
    with tempfile.TemporaryDirectory(prefix="dsprof-run-") as folder:
        result, said = Path(folder, "result"), Path(folder, "said")
        temporary = Path(folder, "tmp")
        temporary.mkdir()
        with said.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(result), str(limit_s), *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**as_installed(), "TMPDIR": str(temporary)},
            )  # fmt: skip
            try:
                process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
        wall, cpu, peak, code = result.read_text().split() if result.is_file() else ("0", "0", "0", "1")
        if int(code):
            last = said.read_text(errors="replace").strip()[-800:]
            raise RunFailed(f"{Path(command[0]).name} ended with {code}: {last or 'it said nothing'}")
    return Run(float(wall), float(cpu), int(peak) * 1024)
