"""The command line, and the one place that catches `DsprofError`.

Heavy modules are imported inside the commands, so that ``dsprof --help`` answers at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from dsprof.cli import captures, reports
from dsprof.cli.options import app
from dsprof.errors import DsprofError, OutputRefused

__all__ = ["app", "captures", "main", "reports"]


def main() -> None:
    """Run the command line; the exit codes are listed in `dsprof.errors` and `dsprof.findings`."""
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    arguments, command = _split(sys.argv[1:])
    try:
        app(args=arguments, obj=command)
    except DsprofError as error:
        _fail(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        typer.echo("dsprof: interrupted.", err=True)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
            raise
        with suppress(OSError):  # what is left in the buffer cannot be written either
            sys.stdout.close()
        _fail(OutputRefused(f"The output cannot be written ({error.strerror}).", "See whether the disk is full."))


def _fill_closed_streams() -> None:
    """Let streams that were closed before we began lead nowhere: a file that took their number would be written to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  the lowest number free


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is ours, and the command behind ``--`` of a capture, which the parser would mix with the images."""
    if arguments[:1] == ["capture"] and "--" in arguments:
        at = arguments.index("--")
        return arguments[:at], arguments[at + 1 :]
    return arguments, []


def _fail(error: DsprofError) -> NoReturn:
    typer.echo(f"dsprof: {error.message}", err=True)
    if error.hint:
        typer.echo(f"        {error.hint}", err=True)
    raise SystemExit(error.exit_code) from None
