"""The command line, and the one place that catches `DsprofError`.

Only the command that is asked for is loaded, and heavy modules within it, so that ``dsprof --help`` answers at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import typer

from dsprof.cli import completing
from dsprof.cli.options import app as _app
from dsprof.cli.options import say
from dsprof.errors import DsprofError, OutputRefused

#: Each command, as --help lists them, and the module here that adds it to the application.
COMMANDS = {
    "analyze": "analyze", "report": "report", "table": "table", "query": "query", "whatif": "whatif", "diff": "diff",
    "baseline": "diff", "timeline": "timeline", "tables": "tables", "schema": "schema", "mcp": "mcp",
    "capture": "capture", "doctor": "doctor", "scrub": "scrub", "workloads": "workloads", "completion": "completion",
}  # fmt: skip
#: The exit code of a program whose output nobody reads any more (SIGPIPE).
_NOBODY_READS = 141
#: What the parser raises for a wrong option; its class moved between versions of Typer.
_Usage: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main() -> None:
    """Run the command line; the exit codes are listed in `dsprof.errors` and `dsprof.findings`."""
    _prepare_streams()
    completing.prepare()
    arguments, command = _split(sys.argv[1:])
    try:
        code = application(completing.words() or arguments)(args=arguments, obj=command, standalone_mode=False)
        sys.stdout.flush()
        raise SystemExit(code or 0)
    except DsprofError as error:
        _fail(error)
    except _Usage as error:
        _refuse(error)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # the parser's way to end then
            _end_unread()
        raise
    except BrokenPipeError:
        _end_unread()
    except KeyboardInterrupt:
        _end(130, lambda: say("dsprof: interrupted.", err=True))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
            raise
        with suppress(OSError):  # what is left in the buffer cannot be written either
            sys.stdout.close()
        _fail(OutputRefused(f"The output cannot be written ({error.strerror}).", "See whether the disk is full."))


def application(words: list[str]) -> typer.Typer:
    """The application with the command that these words call; with all commands where they call none that is known."""
    first = words[0] if words else ""
    asked = [] if first == "--version" else [COMMANDS[first]] if first in COMMANDS else list(COMMANDS.values())
    for module in asked:
        import_module(f"{__name__}.{module}")
    return _app


def __getattr__(name: str) -> Any:
    """`app`: the application with all commands (PEP 562)."""
    if name == "app":
        return application([])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _prepare_streams() -> None:
    """Let nothing stop at a name that the terminal cannot show, and no file take the place of a closed stream."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:  # standard input, output and error
        continue
    os.close(handle)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "w")))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end_unread() -> NoReturn:
    """End as programs do whose output nobody reads any more, and let nothing complain of what is in the buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    raise SystemExit(_NOBODY_READS) from None


def _refuse(error: Any) -> NoReturn:
    from dsprof.show.safe import for_terminal

    error.message = for_terminal(error.message)
    _end(error.exit_code, error.show)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is ours, and the command behind ``--`` of a capture, which the parser would mix with the images.

    Of a comparison ``--`` stands between the sides, and options may come after it, too.
    """
    if arguments[:1] == ["diff"]:
        from dsprof.cli.diff import BETWEEN

        return [BETWEEN if word == "--" else word for word in arguments], []
    if arguments[:1] != ["capture"]:
        return arguments, []
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return _with_kinds(arguments[:at]), arguments[at + 1 :]


def _with_kinds(words: list[str]) -> list[str]:
    """Words in which each ``--baseline`` has its kind: the parser knows no option whose value may be left out."""
    from dsprof.cli.capture import BaselineOption

    after = [*words[1:], ""]
    alone = (
        word == "--baseline" and follows not in tuple(BaselineOption)
        for word, follows in zip(words, after, strict=True)
    )
    return [f"{word}={BaselineOption.PLAIN}" if left else word for word, left in zip(words, alone, strict=True)]


def _fail(error: DsprofError) -> NoReturn:
    lines = f"dsprof: {error.message}" + (f"\n        {error.hint}" if error.hint else "")
    _end(error.exit_code, lambda: say(lines, err=True))


def _end(code: int, tell: Callable[[], None]) -> NoReturn:
    """Tell why on stderr and end with the code, also where stderr is full or nobody reads it."""
    try:
        tell()
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # takes what is left in the buffer
    raise SystemExit(code) from None
