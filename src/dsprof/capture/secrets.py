"""What is secret of a capture, and its log and command line without it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dsprof.ground.command_lines import masked
from dsprof.nsys.sought import Sought


def secrets_of(command: Sequence[str]) -> Sought:
    """What is secret of our environment, whether the program had it or not, and of a command line."""
    sought = Sought()
    sought.secrets_of_environment(os.environ)
    sought.command(command)
    return sought


def clean_log(log: Path, sought: Sought) -> None:
    """Take out of the log what is secret: servers print their arguments. A log without secrets is not touched."""
    if not log.is_file():
        return
    with log.open("rb") as file:
        found = sought.is_in(file)
    if not found:
        return
    partial = log.with_name(f".{log.name}.partial")
    try:
        with log.open("rb") as source, partial.open("wb") as target:
            sought.copy_without(source, target)
        partial.replace(log)
    except OSError:  # a full disk, which the log may explain: it stays as it is
        partial.unlink(missing_ok=True)


def cleaned_command(command: Sequence[str]) -> tuple[str, ...]:
    """A command line as it may be kept: without its secrets, and without those of the environment in other places."""
    removed = secrets_of(command).remover(words=False)
    return tuple(os.fsdecode(removed(os.fsencode(word))) for word in masked(command))
