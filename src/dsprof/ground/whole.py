"""A file that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dsprof.errors import OutputExists, OutputRefused
from dsprof.ground.leftovers import clear_leftovers, own_folder


def check_free(path: Path, replace: bool) -> None:
    """Raises `OutputExists` and `OutputRefused` as `writing_whole` does, before there is anything to write."""
    if os.path.isdir(path):  # noqa: PTH112  Path raises for a name that is too long
        raise OutputRefused(f"{path} is a folder, so it is not replaced.", "Name a file.")
    if not replace and os.path.lexists(path):
        raise _there(path)
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        raise OutputRefused(f"{path} is a pipe or a device, so it is not replaced.", "Name a file.")
    folder = os.path.dirname(os.path.realpath(path))  # noqa: PTH120
    if not os.path.isdir(folder):  # noqa: PTH112
        raise OutputRefused(f"{path} cannot be written: there is no folder {folder}.", "Name a file in a folder.")


def spare(made_from: Iterable[Path], target: Path) -> None:
    """Raises `OutputRefused` where what is to be written would take the place of what it is made from."""
    if any(os.path.isfile(file) and os.path.isfile(target) and file.samefile(target) for file in made_from):  # noqa: PTH113
        raise OutputRefused(f"{target} is what this is made from, so it is not replaced.", "Name another file.")


def write_whole(path: Path, text: str, replace: bool) -> None:
    """Write a file of text. Raises as `writing_whole` does."""
    with writing_whole(path, replace) as file:
        file.write(text.encode())


@contextmanager
def writing_whole(path: Path, replace: bool) -> Iterator[BinaryIO]:
    """A file to be written beside its place, which is moved there at the end of the block, and vanishes if it raises.

    Raises `OutputExists` where there is one and it is not to be replaced, `OutputRefused` where it cannot be written.
    A link is followed, so that what it stands for is replaced.
    """
    check_free(path, replace)
    target = Path(os.path.realpath(path))
    prefix = f".{target.name[:80]}.writing-"
    try:
        clear_leftovers(prefix, target.parent)
        with own_folder(prefix, target.parent) as folder:
            written = folder / "whole"
            with written.open("wb") as file:
                yield file
                os.fchmod(file.fileno(), _mode(target))
            _move(written, target, replace)
    except FileExistsError as error:  # somebody wrote one in between
        raise _there(path) from error
    except OSError as error:
        raise OutputRefused(f"{path} cannot be written ({error.strerror or error}).", "Name another file.") from error


def _there(path: Path) -> OutputExists:
    return OutputExists(f"{path} is there already.", "Name another file, or add --force to replace it.")


def _move(written: Path, target: Path, replace: bool) -> None:
    """In one step; where nothing is to be replaced, a link fails if there is something."""
    if replace:
        written.replace(target)
        return
    try:
        target.hardlink_to(written)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        written.replace(target)


def _mode(target: Path) -> int:
    """That of the file that is there, or what a new one would have."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
