"""What a recording of a command line needs beside nsys's usual options: what is added, why, and where nsys stands.

::

    plan = plan_of(command, Wishes(), options, environment)
    plan.command      the words that run, with what was added
    plan.said()       lines to be printed before the run
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import evolve, field

from dsprof.capture.launchers import (
    Add,
    Call,
    Form,
    Ranks,
    Server,
    Window,
    all_launchers,
    chain_of,
    text_for_shell,
    without_shell,
)
from dsprof.capture.options import ProfileOptions, asked
from dsprof.errors import CaptureRefused
from dsprof.records import frozen

#: Options of nsys that choose a part of the run: who gives one wants no window of ours.
_WINDOWS = ("--capture-range", "--duration", "--delay", "--duration-frames", "--start-frame-index", "-y", "-Y")
#: Seconds in which a Python may say whether it has a package.
_IMPORT_LIMIT_S = 20.0
_STEPS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@frozen(kw_only=True)
class Wishes:
    """What the user says about launchers: which one (None: what the command line looks like), and what to leave out.

    `launcher`: a name, ``auto`` or ``none``. `per_rank`: one report for each rank; None: as the launcher usually has
    it. `steps`: like ``100-120``, the steps that are recorded. `server`: the recording is a window in a server's life.
    """

    launcher: str = "auto"
    leave_out: tuple[str, ...] = ()
    per_rank: bool | None = None
    steps: str | None = None
    server: bool = False


@frozen(kw_only=True)
class Plan:
    """What runs, and how: `options` of nsys and `variables` of the environment are those that were added.

    `program` is the place in `command` of what each rank runs, where nsys stands behind a launcher of ranks.
    """

    command: tuple[str, ...]
    title: str = ""
    names: tuple[str, ...] = ()
    added: tuple[Add, ...] = ()
    hints: tuple[str, ...] = ()
    window: Window | None = None
    ranks: Ranks | None = None
    program: int = 0
    server: Server | None = None
    #: The arguments of the server, in which its host and port stand.
    arguments: tuple[str, ...] = field(default=(), repr=False)

    @property
    def options(self) -> dict[str, str]:
        """Options of nsys."""
        return {add.name: add.value for add in self.added if add.kind == "option"}

    @property
    def variables(self) -> dict[str, str]:
        """Variables for the program's environment."""
        return {add.name: add.value for add in self.added if add.kind == "variable"}

    def said(self) -> list[str]:
        """What is added, why, and how to do without; and what is missing that dsprof cannot add. No secrets."""
        if not self.title:
            return [f"dsprof: {hint}" for hint in self.hints]
        lines = [f"dsprof: this is {self.title}" + (", so it gets" if self.added else ".")]
        lines += [f"  {add.text}: {add.why}." for add in self.added]
        if self.ranks is not None:
            lines.append("  nsys behind the launcher: one report for each rank (run.r0, run.r1, …).")
        lines += [f"  Note: {hint}" for hint in self.hints]
        if self.added or self.ranks is not None:
            lines.append(
                "  Your own options and variables come first; --leave-out NAME drops one, --launcher none all."
            )
        return lines


def plan_of(command: Sequence[str], wishes: Wishes, options: ProfileOptions, environment: Mapping[str, str]) -> Plan:
    """What a recording of `command` needs. Raises `CaptureRefused` for wishes that it cannot have."""
    if wishes.launcher not in ("auto", "none", *all_launchers()):
        raise CaptureRefused(
            f"There is no launcher {wishes.launcher}.", f"There are: {', '.join(['auto', 'none', *all_launchers()])}."
        )
    if wishes.launcher == "none":
        return _without_launcher(command, wishes)
    words = without_shell(command)
    chain = chain_of(words)
    if wishes.launcher != "auto" and wishes.launcher not in [name for name, _, _ in chain]:
        return _named(tuple(command), wishes, options, environment)
    if not chain:
        return evolve(_without_launcher(command, wishes), hints=_hidden(command))
    plan = Plan(
        command=words,
        names=tuple(name for name, _, _ in chain),
        title=", which starts ".join(form.says for _, form, _ in chain),
        hints=(*(hint for _, form, call in chain for hint in _hints(form, call)), *_hidden(words)),
    )
    plan = _with_ranks(plan, chain, wishes)
    for _, form, call in chain:
        plan = _with_form(plan, form, call, wishes, options, environment)
    return _checked(plan, wishes)


def _without_launcher(command: Sequence[str], wishes: Wishes) -> Plan:
    if wishes.per_rank:
        raise CaptureRefused(
            "--per-rank is for torchrun, mpirun and srun, and the command is none of them.",
            "Leave it out, or write the launcher's own name behind --.",
        )
    return _checked(Plan(command=tuple(command)), wishes)


def _named(command: tuple[str, ...], wishes: Wishes, options: ProfileOptions, environment: Mapping[str, str]) -> Plan:
    """A program that uses an engine and does not look like it, as a script: it gets no arguments, and no window."""
    form = next(
        (form for form in all_launchers()[wishes.launcher].forms if form.role in ("program", "server") and form.adds),
        None,
    )
    if form is None:
        raise CaptureRefused(
            f"The command does not call {wishes.launcher}.", "Write it as it would be typed, or leave out --launcher."
        )
    adds = tuple(add for add in form.adds if add.kind != "argument")
    form = evolve(form, adds=adds, window=None, hints=(), server=None)
    plan = Plan(command=command, names=(wishes.launcher,), title=f"a program with {wishes.launcher}")
    plan = _with_form(plan, form, Call(command, 0, "", len(command)), wishes, options, environment)
    return _checked(plan, wishes)


def _checked(plan: Plan, wishes: Wishes) -> Plan:
    """The plan, if it is what was wished for."""
    if wishes.steps is not None and wishes.steps not in plan.variables.values():
        raise CaptureRefused(
            "--steps is for programs that can be told which steps to record: TensorRT-LLM, and not with --server.",
            "Leave it out; --capture-range or --server choose a part of the run as well.",
        )
    if wishes.server and plan.ranks is not None:
        raise CaptureRefused(
            "--server cannot be had with one report for each rank.",
            "Start the server on one node without srun or mpirun, or add --no-per-rank to mpirun.",
        )
    return plan


# -- what is added --------------------------------------------------------------------------------------------


def _with_form(
    plan: Plan, form: Form, call: Call, wishes: Wishes, options: ProfileOptions, environment: Mapping[str, str]
) -> Plan:
    """The plan with what one launcher of the chain adds."""
    text = " ".join(call.arguments)
    adds = [
        add
        for add in form.adds
        if add.name not in wishes.leave_out
        and not (add.unless and re.search(add.unless, text))
        and not (add.kind == "variable" and (add.name in environment or add.name in call.assigned))
        and not (add.kind == "option" and asked(options, add.name, None) is not None)
    ]
    plan = evolve(plan, added=(*plan.added, *adds))
    steps = _steps_of(form, wishes)
    window = form.steps_window if steps else form.window
    plan = evolve(plan, added=(*plan.added, *steps))
    if window is not None and _may_choose(options, wishes):
        plan = _with_window(plan, window, asked(options, "--capture-range-end", options.capture_range_end) is None)
    for add in adds:
        if add.kind == "argument":
            plan = evolve(plan, command=(*plan.command, *filter(None, (add.name, add.value))))
    return evolve(plan, server=form.server, arguments=call.arguments) if form.server else plan


def _steps_of(form: Form, wishes: Wishes) -> tuple[Add, ...]:
    """What tells the program which steps are to be recorded, if that is wished for and can be."""
    if wishes.steps is None or not form.steps or wishes.server:
        return ()
    if not _STEPS.fullmatch(wishes.steps):
        raise CaptureRefused(f"--steps {wishes.steps} is no range of steps.", "Write it like 100-120, or 10-20,50-60.")
    return (Add("variable", form.steps, wishes.steps, "it starts and stops the CUDA profiler at these steps"),)


def _may_choose(options: ProfileOptions, wishes: Wishes) -> bool:
    """Is the part that is recorded left to us?"""
    if wishes.server or "--capture-range" in wishes.leave_out or options.duration_s is not None:
        return False
    return options.capture_range is None and all(asked(options, name, None) is None for name in _WINDOWS)


def _with_window(plan: Plan, window: Window, ends: bool) -> Plan:
    """The plan with the part that is recorded; `ends`: with what happens at its end, which the user did not choose."""
    repeats = window.end.startswith("repeat")
    why = "one report for each such window" if repeats else "one such window, and the program goes on"
    adds = [Add("option", "--capture-range", window.range, window.why)]
    adds += [Add("option", "--capture-range-end", window.end, why)] if ends else []
    return evolve(plan, window=window, added=(*plan.added, *adds))


def _with_ranks(plan: Plan, chain: list[tuple[str, Form, Call]], wishes: Wishes) -> Plan:
    """Put nsys behind the launcher of ranks, where it must be, usually is, or is wished to be."""
    launchers = [(name, form.ranks, call) for name, form, call in chain if form.role == "ranks"]
    if not launchers:
        if wishes.per_rank:
            raise CaptureRefused("--per-rank is for torchrun, mpirun and srun.", "Leave it out.")
        return plan
    name, ranks, call = launchers[0]
    if ranks is None:
        if wishes.per_rank:
            raise CaptureRefused(
                f"{name} cannot be told to start nsys for each rank.", "Use torchrun, or leave out --per-rank."
            )
        return _one_report(plan)
    if ranks.outside == "must" and wishes.per_rank is False:
        raise CaptureRefused(
            f"One nsys before {name} would see none of its tasks.", "Leave out --no-per-rank: each has a report."
        )
    if (ranks.outside == "if asked" and not wishes.per_rank) or wishes.per_rank is False:
        return _one_report(plan)
    place = _place_of_program(name, ranks, call)
    return evolve(plan, ranks=ranks, program=place) if not ranks.python else _as_programs(plan, ranks, call, place)


def _one_report(plan: Plan) -> Plan:
    sentence = "All ranks of this node are in one report."
    return evolve(plan, hints=(sentence, *plan.hints))


def _place_of_program(name: str, ranks: Ranks, call: Call) -> int:
    place = ranks.options.skip(call.words, call.first)
    refused = re.search(ranks.refused, " ".join(call.arguments))
    unknown = ranks.options.unknown(call.words, call.first)
    if refused or place is None or place >= len(call.words):
        what = f"with {refused.group().strip()}" if refused else f"behind {unknown}" if unknown else "in it"
        raise CaptureRefused(
            f"Where the program of {name} begins cannot be told {what}, so nsys cannot be put before it.",
            f"Write the option as {unknown}=VALUE if it has a value, or put nsys there yourself with --launcher none."
            if unknown.startswith("--") and not refused
            else "Put nsys there yourself, and analyze its reports.",
        )
    return place


def _as_programs(plan: Plan, ranks: Ranks, call: Call, place: int) -> Plan:
    """Torchrun starts programs and no scripts, as nsys is none: its Python is named before the script."""
    words, options = call.words, ranks.options
    if options.given(words, call.first, place, ranks.no_python) is not None:
        return evolve(plan, ranks=ranks, program=place)
    module = options.given(words, call.first, place, "-m --module") is not None
    before = [word for word in words[call.first : place] if word not in ("-m", "--module")]
    python = [_python_of(call), "-u", *(["-m"] if module else [])]
    command = (*words[: call.first], *before, ranks.no_python, *python, *words[place:])
    return evolve(plan, command=command, ranks=ranks, program=call.first + len(before) + 1)


def _python_of(call: Call) -> str:
    """The Python of a program: the one that runs it, or the one that lies beside it."""
    if call.name.startswith("-m ") and not call.words[call.at].endswith(call.name[3:]):
        return call.words[call.at]
    found = shutil.which(call.words[call.at])
    beside = Path(found).parent / "python" if found else None
    return str(beside) if beside and beside.is_file() else "python"


# -- what is said ---------------------------------------------------------------------------------------------


def _hints(form: Form, call: Call) -> list[str]:
    text = " ".join(call.arguments)
    found = [hint.says for hint in form.hints if re.search(hint.when, text) and not re.search(hint.unless, text)]
    python = _python_of(call)
    is_certain = "/" in python or python == call.words[call.at]
    if form.package and is_certain and _lacks(python, form.package):
        found.append(f"Its Python has no package {form.package}, without which it writes no ranges: install it there.")
    return found


def _lacks(python: str, package: str) -> bool:
    """Is it certain that this Python cannot import the package?"""
    words = [python, "-c", "import importlib.util, sys; sys.exit(43 * (importlib.util.find_spec(sys.argv[1]) is None))"]
    try:
        done = subprocess.run(
            [*words, package], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_IMPORT_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 43


def _hidden(command: Sequence[str]) -> tuple[str, ...]:
    """A sentence where a text for a shell, into which we do not look, names what we know."""
    texts = " ".join(text_for_shell(command[place:]) for place in range(len(command)))
    calls = [call for one in all_launchers().values() for form in one.forms for call in form.calls]
    names = {call.removeprefix("-m ").split()[0] for call in calls} - {"ray", "docker", "podman", "nerdctl"}
    known = sorted(name for name in names if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", texts))
    if not known:
        return ()
    return (
        f"The text for the shell names {known[0]}, and dsprof does not change it: what it needs is added where "
        "the command stands by itself.",
    )
