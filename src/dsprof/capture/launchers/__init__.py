"""Launchers and engines: one file each, found by being here. A new one is a file with a `LAUNCHER`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from dsprof.capture.launchers._launcher import Add, Form, Hint, Launcher, Ranks, Server, Window
from dsprof.capture.launchers._words import Call, call_in, python_call, text_for_shell, without_shell

__all__ = [
    "Add",
    "Call",
    "Form",
    "Hint",
    "Launcher",
    "Ranks",
    "Server",
    "Window",
    "all_launchers",
    "call_in",
    "chain_of",
    "python_call",
    "text_for_shell",
    "without_shell",
]


@cache
def all_launchers() -> dict[str, Launcher]:
    """Every launcher by its name; each module here without a leading underscore defines one."""
    names = (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return {module.LAUNCHER.name: module.LAUNCHER for module in modules}


def chain_of(words: tuple[str, ...]) -> list[tuple[str, Form, Call]]:
    """The launchers that a command line goes through, the outermost first: name, form, call."""
    chain = list[tuple[str, Form, Call]]()
    call = call_in(words)
    while call is not None and (found := _known(call)):
        chain.append((*found, call))
        call = _inner(found[1], call)
    return chain


def _known(call: Call) -> tuple[str, Form] | None:
    for launcher in all_launchers().values():
        form = launcher.form_of(call)
        if form is not None:
            return launcher.name, form
    return None


def _inner(form: Form, call: Call) -> Call | None:
    """The call that a launcher of ranks makes; None where it cannot be told, or there is none."""
    if form.ranks is None:
        return None
    options, words = form.ranks.options, call.words
    first = _after_subcommand(form, call)
    place = options.skip(words, first)
    if place is None or place >= len(words):
        return None
    if not form.ranks.python or options.given(words, first, place, form.ranks.no_python) is not None:
        return call_in(words, place)
    if options.given(words, first, place, "-m --module") is not None:
        return Call(words, place, f"-m {words[place]}", place + 1)
    return python_call(words, place, place)


def _after_subcommand(form: Form, call: Call) -> int:
    """The place of the first argument behind the subcommand, as in ``accelerate launch``."""
    width = max(len(text.split()) - (2 if text.startswith("-m") else 1) for text in form.calls)
    return call.first + width
