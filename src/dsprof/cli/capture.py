"""``dsprof capture``: a session or a program under nsys, and the summary of what it did."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from attrs import evolve, fields, frozen

from dsprof.cli.analyze import Several, SummaryFormat, Top, analyze_several, show
from dsprof.cli.options import AnalysisFlags, analyzed, app, load_numpy, pattern, say, with_flags
from dsprof.cli.progress import Progress
from dsprof.cli.runs import RunFlags, end_runs, tell_runs
from dsprof.errors import BaselineFailed, DsprofError

if TYPE_CHECKING:
    from dsprof.analysis.options import AnalysisOptions
    from dsprof.capture.baseline import Kind
    from dsprof.capture.runs import Side
    from dsprof.capture.serving import Serving
    from dsprof.capture.session import Capture, Settings
    from dsprof.workloads.job import Job, Served

#: Requests, images and tokens of a session are no more than this; a seed is what torch takes.
MOST, MOST_SEED = 1_000_000, (1 << 63) - 1


#: What JSON calls otherwise than Python does.
_PYTHONS = {"True": "true", "False": "false", "None": "null"}


class BaselineOption(StrEnum):
    """How a program runs again, to tell what recording cost."""

    PLAIN = "plain"
    GRAPH = "graph"


@frozen
class SessionFlags:
    """Options of a DeepSeek-OCR session."""

    model: Annotated[
        str,
        typer.Option(help="A checkpoint's folder; tiny, full, with --serve llama-tiny, llama: random weights."),
    ] = "tiny"
    prompt: Annotated[str, typer.Option(help="What is asked of the model.")] = "<image>\nFree OCR. "
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MOST, help="Tokens to generate.")] = 64
    repeat: Annotated[int, typer.Option(min=1, max=MOST, help="Requests for each image.")] = 1
    batch: Annotated[int, typer.Option(min=1, max=MOST, help="Images in one request.")] = 1
    warmup: Annotated[int, typer.Option(min=0, max=MOST, help="Requests before, outside of all ranges.")] = 1
    modules: Annotated[
        str, typer.Option(help="Modules that get ranges: none, stages, layers, all, or a regex on their names.")
    ] = "stages"
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto"
    flash_attn: Annotated[
        bool | None, typer.Option("--flash-attn/--no-flash-attn", help="Insist on it, or do without.")
    ] = None
    trust_remote_code: Annotated[bool, typer.Option(help="Run the code that comes with the checkpoint.")] = False
    seed: Annotated[
        int, typer.Option(min=-MOST_SEED, max=MOST_SEED, help="Of random weights, and of what --serve serves.")
    ] = 0
    serve: Annotated[
        int, typer.Option(min=0, max=MOST, metavar="N", help="Serve N prompts by continuous batching, and no image.")
    ] = 0
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Of the longest prompt of --serve; as the model's size is.")
    ] = None
    arrival_rate: Annotated[
        float | None, typer.Option(min=0.001, max=MOST, help="Requests of --serve in a second; all at once.")
    ] = None
    batching: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A setting of transformers' ContinuousBatchingConfig, for --serve."),
    ] = None

    def check(self) -> None:
        """Raises `typer.BadParameter` for options that mean nothing together."""
        if not self.serve and (self.prompt_tokens or self.arrival_rate or self.batching):
            raise typer.BadParameter("--prompt-tokens, --arrival-rate and --batching are for --serve.")
        if self.serve and (self.repeat, self.batch) != (1, 1):
            raise typer.BadParameter("--repeat and --batch are for images, and not for --serve.")
        _batching_settings(self.batching or ())

    def differing(self, context: typer.Context, words: list[str]) -> SessionFlags:
        """These but for some, which are given as on a command line. Raises `typer.BadParameter` for other options."""
        parsed = context.command.make_context("--before", list(words), parent=context.parent, obj=[])
        sources = {name: parsed.get_parameter_source(name) for name in parsed.params}
        given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        if strange := sorted(set(given) - {one.name for one in fields(SessionFlags)}):
            raise typer.BadParameter(
                "--before takes options of a session here, like --no-flash-attn or --model PATH, and no "
                + (f"--{strange[0].replace('_', '-')}." if strange[0] != "images" else "images.")
            )
        return evolve(self, **{name: parsed.params[name] for name in given})

    def job(self, images: list[Path]) -> Job:
        """What the session is asked to do."""
        from dsprof.capture.session import images_of
        from dsprof.workloads.job import Job

        return Job(
            images=tuple(str(path.resolve()) for path in images_of(images)), prompt=self.prompt, model=self.model,
            max_new_tokens=self.max_new_tokens, repeat=self.repeat, batch=self.batch, warmup=self.warmup,
            modules=self.modules, seed=self.seed, device=self.device, dtype=self.dtype,
            use_flash_attn=self.flash_attn, trust_remote_code=self.trust_remote_code, serve=self.serve,
            prompt_tokens=self.prompt_tokens, arrival_rate=self.arrival_rate,
            batching=_batching_settings(self.batching or ()),
        )  # fmt: skip


def _batching_settings(words: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE, the value as JSON or as a word. Raises `typer.BadParameter`."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"--batching wants NAME=VALUE, as max_batch_tokens=256, and not {word!r}.")
        try:
            found[name] = json.loads(_PYTHONS.get(value, value))
        except (ValueError, RecursionError):
            found[name] = value
    return found


@frozen
class RecordingFlags:
    """Where a session goes, and what nsys is told."""

    out: Annotated[Path, typer.Option(help="Where the session's folder is made.")] = Path("traces")
    name: Annotated[str | None, typer.Option(help="Name of the session; of the image or program by default.")] = None
    limit: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="End the program then.")] = None
    trace: Annotated[str, typer.Option(help="What nsys traces.")] = "cuda,nvtx"
    cuda_graph_trace: Annotated[str, typer.Option(help="node shows kernels of CUDA graphs; graph is cheaper.")] = "node"
    capture_range: Annotated[str | None, typer.Option(help="nsys's --capture-range.")] = None
    capture_range_end: Annotated[str | None, typer.Option(help="nsys's --capture-range-end.")] = None
    nvtx_capture: Annotated[str | None, typer.Option(help="nsys's --nvtx-capture: range@domain.")] = None
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Pass a variable on that looks like a secret.")
    ] = None
    nsys_option: Annotated[list[str] | None, typer.Option(help="A further option for nsys profile.")] = None
    python_sampling: Annotated[
        bool,
        typer.Option(
            "--python-sampling",
            help="Sample what Python is in, to tell the host's time outside of CUDA by function; it takes time.",
        ),
    ] = False
    python_sampling_rate: Annotated[
        int, typer.Option(min=1, max=2000, metavar="HZ", help="Samples of Python in a second.")
    ] = 1000
    baseline: Annotated[
        list[BaselineOption] | None,
        typer.Option(
            metavar="[plain|graph]",
            help="Run it again, to tell what recording costs: without nsys (plain, which may be left out), or with its "
            "CUDA graphs traced as a whole (graph).",
        ),
    ] = None

    def settings(self, nsys: str | None) -> Settings:
        """How to capture."""
        from dsprof.capture.options import ProfileOptions
        from dsprof.capture.session import Settings

        told = ProfileOptions(
            trace=self.trace, cuda_graph_trace=self.cuda_graph_trace, limit_s=self.limit,
            capture_range=self.capture_range, capture_range_end=self.capture_range_end,
            nvtx_capture=self.nvtx_capture, extra=tuple(self.nsys_option or ()),
            python_sampling_hz=self.python_sampling_rate if self.python_sampling else None,
            export_later=not self.baseline,
        )  # fmt: skip
        kinds: tuple[Kind, ...] = tuple(kind.value for kind in self.baseline or ())
        return Settings(self.out, self.name, nsys, tuple(self.env or ()), told, kinds)


@frozen
class LauncherFlags:
    """What is known of launchers and engines, and the window of a server."""

    launcher: Annotated[
        str,
        typer.Option(
            metavar="[auto|none|NAME]",
            help="What the command is: vllm, sglang, trtllm, torchrun, mpirun, srun, …; told by its words, or none.",
        ),
    ] = "auto"
    leave_out: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="An addition for the launcher to do without.")
    ] = None
    per_rank: Annotated[
        bool | None, typer.Option("--per-rank/--no-per-rank", help="A report for each rank, or one for all of a node.")
    ] = None
    steps: Annotated[str | None, typer.Option(metavar="A-B", help="The steps to record, of TensorRT-LLM.")] = None
    server: Annotated[
        bool, typer.Option("--server", help="Record a window in the life of a server, and end it then.")
    ] = False
    ready: Annotated[
        str | None,
        typer.Option(metavar="URL|TEXT", help="The server is ready when this answers, or when it prints this."),
    ] = None
    ready_limit: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long that may take.")] = 600.0
    window_s: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long the server is recorded.")] = 5.0
    client: Annotated[
        str | None,
        typer.Option("--while", metavar="COMMAND", help="Record the server while this client runs."),
    ] = None

    def added(self, settings: Settings, command: list[str]) -> Settings:
        """The settings with these; they are for a command."""
        from dsprof.capture.plan import Wishes

        if not command and (self.launcher != "auto" or self.per_rank is not None or self.steps or self.server):
            raise typer.BadParameter("--launcher, --per-rank, --steps and --server are for a command behind --.")
        wishes = Wishes(
            launcher=self.launcher, leave_out=tuple(self.leave_out or ()), per_rank=self.per_rank, steps=self.steps
        )
        return evolve(settings, wishes=wishes, serving=self._serving())

    def _serving(self) -> Serving | None:
        """The window of a server, if one is asked for."""
        from dsprof.capture.serving import Serving

        if not self.server:
            if self.ready is not None or self.client is not None:
                raise typer.BadParameter("--ready and --while belong to --server.")
            return None
        try:
            client = tuple(shlex.split(self.client or ""))
        except ValueError as error:
            raise typer.BadParameter(f"--while is no command: {error}.") from error
        return Serving(ready=self.ready or "", window_s=self.window_s, client=client, ready_limit_s=self.ready_limit)


@app.command(
    epilog="Example: dsprof capture page.png --model tiny --repeat 2   or: dsprof capture -- python serve.py   or: "
    "dsprof capture --serve 16 --model llama-tiny   or: dsprof capture --runs 4 --before 'python a.py' -- python b.py",
    options_metavar="[OPTIONS] [-- COMMAND ...]",
)
@with_flags
def capture(
    context: typer.Context,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE", help="Images, or folders of images, to read; or a command to run."),
    ] = None,
    top: Top = 3,
    *,
    session: SessionFlags,
    recording: RecordingFlags,
    launching: LauncherFlags,
    running: RunFlags,
    analysis: AnalysisFlags,
) -> None:
    """Record a DeepSeek-OCR session, a serving loop, or any command, under nsys; analyze it and print the summary."""
    load_numpy()
    from dsprof.capture.session import record_command, record_images

    command: list[str] = list(context.obj or [])
    if bool(images) + bool(command) + bool(session.serve) != 1:
        raise typer.BadParameter("name images to read, or a command behind --, or --serve N, and not both.")
    session.check()
    # What is wrong here is told before the recording, not after it.
    options = analysis.options()
    if options.rules is None:
        from dsprof.analysis.rules_file import find_rules_file

        find_rules_file(Path("run"))  # the one in the working folder, as a new session has none
    pattern("--modules", session.modules)
    names = running.names()
    settings = launching.added(recording.settings(analysis.nsys), command)
    if running.wanted:
        sides = _sides(context, running, names, command, session, images or [])
        exported = evolve(settings, profile=evolve(settings.profile, export_later=False))
        _capture_runs(sides, running, exported, options)
        return
    with Progress() as progress, _showing_the_log():
        if command:
            done = record_command(command, settings, sys.stderr, progress)
        else:
            done = record_images(session.job(images or []), settings, sys.stderr, progress)
    _tell_served(done.session.served)
    try:
        if done.recorded and len(done.exports) > 1 and done.profile.ranks:
            analyze_several(list(done.exports), options, Several(), SummaryFormat.RICH, strict=False)
        else:
            for export in done.exports if done.recorded else ():
                _summarize(export, options, top)
    finally:  # also where the analysis fails, as with too little --memory: the recording is whole
        _write_exports(done)
        say(f"Session: {done.folder} (to pass on: all but the .nsys-rep, which keeps environments and arguments;")
        say("         user, host and folders stand in the export as well: `dsprof scrub` takes them out)")
    _tell_ending(done)


def _sides(
    context: typer.Context,
    running: RunFlags,
    names: list[str],
    command: list[str],
    session: SessionFlags,
    images: list[Path],
) -> list[Side]:
    """What is recorded in turn."""
    from dsprof.capture.runs import command_side, images_side

    if command:
        commands = [command] if running.before is None else [running.words(), command]
        return [command_side(name, words) for name, words in zip(names, commands, strict=True)]
    flags = [session] if running.before is None else [session.differing(context, running.words()), session]
    for one in flags:
        one.check()
        if bool(images) + bool(one.serve) != 1:
            raise typer.BadParameter("--before cannot make a session that reads images of one that serves.")
        pattern("--modules", one.modules)
    return [images_side(name, one.job(images)) for name, one in zip(names, flags, strict=True)]


def _capture_runs(sides: list[Side], running: RunFlags, settings: Settings, options: AnalysisOptions) -> None:
    """Record the sides in turn, then write the tables of each run that is whole."""
    from dsprof.capture.runs import record_runs

    with Progress(more=8 * len(sides) * (running.runs or 1)) as progress, _showing_the_log():
        done = record_runs(sides, running.runs or 1, settings, running.pause_s, sys.stderr, progress)
        for bad in done.unfinished:
            if log := bad.capture.profile.log if bad.capture else bad.error.log if bad.error else None:
                _show_log(log)
    try:
        for export in () if done.interrupted else (export for one in done.whole for export in one.exports):
            with Progress() as progress:
                analyzed(export, options, progress).write(progress=progress)
    finally:
        tell_runs(done)
    end_runs(done)


def _tell_served(served: Served | None) -> None:
    """What a serving loop itself counted."""
    if served is not None:
        all_of = served.totals
        say(
            f"Served {all_of.finished:,} of {all_of.requests:,} requests in {all_of.steps:,} steps: "
            f"{all_of.prompt_tokens:,} tokens of prompts and {all_of.new_tokens:,} new ones, as it counted itself."
        )


def _summarize(export: Path, options: AnalysisOptions, top: int) -> None:
    """Tables and summary of a report of a capture."""
    with Progress() as progress:
        found = analyzed(export, options, progress)
        folder = found.write(progress=progress)
        summary = found.summary(top)
    show(summary, SummaryFormat.RICH, folder)


def _write_exports(done: Capture) -> None:
    """Write the SQLite exports that the summary did not wait for."""
    with Progress() as progress:
        for one in done.profile.later:
            progress(f"exporting {one.report.name} to SQLite")
            one.write()


def _tell_ending(done: Capture) -> None:
    """Say how the session ended; the exit code is the captured program's."""
    ending = done.profile.ending
    if ending in ("failed", "signalled", "unknown"):
        _show_log(done.profile.log)
    if done.trouble:
        raise done.trouble
    if not done.recorded:
        typer.echo("dsprof: Neither NVTX ranges nor CUDA events were recorded.", err=True)
    if ending != "finished" or done.profile.left or done.profile.short:
        explained = done.profile.explain()
        say(f"dsprof: {explained[0].upper()}{explained[1:]}.", err=True)
    if done.profile.left:
        typer.echo("        With --nsys-option=--wait=all, the recording goes on until they end.", err=True)
    if ending == "unknown":  # nsys hung and was ended, and took the program's exit code with it
        raise typer.Exit(1)
    if ending in ("failed", "signalled", "interrupted"):
        raise typer.Exit(done.session.exit_code)
    if problems := done.session.baseline.problems:
        raise BaselineFailed(" ".join(problems), "The recording and its tables are whole. See the logs in its folder.")


@contextmanager
def _showing_the_log() -> Iterator[None]:
    """Of an error whose reason may be in a log, show the log's last lines before the sentence."""
    try:
        yield
    except DsprofError as error:
        if error.log is not None:
            _show_log(error.log)
        raise


def _show_log(log: Path) -> None:
    from dsprof.capture.watching import last_words

    words = last_words(log) if log.is_file() else []
    if words:
        say("\n".join([f"The last lines of {log}:", *(f"  {line}" for line in words)]), err=True)
