"""Commands that make a report, or look after one: capture, doctor, scrub, workloads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsprof.cli.options import (
    Families,
    ModelConfig,
    Nsys,
    Stage,
    Step,
    SummaryFormat,
    Threads,
    ThreadsOption,
    app,
    load_numpy,
    pattern,
    say,
    stages_of,
)
from dsprof.cli.progress import Progress
from dsprof.cli.reports import show
from dsprof.errors import DsprofError

if TYPE_CHECKING:
    from dsprof.analysis import Analysis
    from dsprof.session import Capture

#: Requests, images and tokens of a session are no more than this; a seed is what torch takes.
_MOST, _MOST_SEED = 1_000_000, (1 << 63) - 1
_PROMPT = "<image>\nFree OCR. "
workloads = typer.Typer(
    no_args_is_help=True,
    help="Make a model or a page for a capture.",
    epilog="Example: dsprof workloads page page.png",
)
app.add_typer(workloads, name="workloads")


@app.command(
    epilog="Example: dsprof capture page.png --model tiny --repeat 2   or: dsprof capture -- python serve.py",
    options_metavar="[OPTIONS] [-- COMMAND ...]",
)
def capture(
    context: typer.Context,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE", help="Images, or folders of images, to read; or a command to run."),
    ] = None,
    model: Annotated[str, typer.Option(help="A checkpoint's folder; tiny or full: random weights.")] = "tiny",
    prompt: Annotated[str, typer.Option(help="What is asked of the model.")] = _PROMPT,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=_MOST, help="Tokens to generate.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, max=_MOST, help="Requests for each image.")] = 1,
    batch: Annotated[int, typer.Option(min=1, max=_MOST, help="Images in one request.")] = 1,
    warmup: Annotated[int, typer.Option(min=0, max=_MOST, help="Requests before, outside of all ranges.")] = 1,
    modules: Annotated[
        str, typer.Option(help="Modules that get ranges: none, stages, layers, all, or a regex on their names.")
    ] = "stages",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    flash_attn: Annotated[
        bool | None, typer.Option("--flash-attn/--no-flash-attn", help="Insist on it, or do without.")
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the code that comes with the checkpoint.")] = False,
    seed: Annotated[int, typer.Option(min=-_MOST_SEED, max=_MOST_SEED, help="Of random weights.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the session's folder is made.")] = Path("traces"),
    name: Annotated[str | None, typer.Option(help="Name of the session; of the image or program by default.")] = None,
    limit: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="End the program then.")] = None,
    trace: Annotated[str, typer.Option(help="What nsys traces.")] = "cuda,nvtx",
    cuda_graph_trace: Annotated[
        str, typer.Option(help="node shows kernels of CUDA graphs; graph is cheaper.")
    ] = "node",
    capture_range: Annotated[str | None, typer.Option(help="nsys's --capture-range.")] = None,
    capture_range_end: Annotated[str | None, typer.Option(help="nsys's --capture-range-end.")] = None,
    nvtx_capture: Annotated[str | None, typer.Option(help="nsys's --nvtx-capture: range@domain.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Pass a variable on that looks like a secret.")
    ] = None,
    nsys_option: Annotated[list[str] | None, typer.Option(help="A further option for nsys profile.")] = None,
    stage: Stage = None,
    step: Step = None,
    threads: Threads = ThreadsOption.THREAD,
    families: Families = None,
    model_config: ModelConfig = None,
    top: Annotated[int, typer.Option(min=0, help="Kernels to show for each stage.")] = 5,
    nsys: Nsys = None,
) -> None:
    """Record a DeepSeek-OCR session, or any command, under nsys; analyze it and print the summary."""
    load_numpy()
    from dsprof.families import read_rules
    from dsprof.model_record import read_record
    from dsprof.nsys.options import ProfileOptions
    from dsprof.session import Settings, images_of, record_command, record_images
    from dsprof.workloads.job import Job

    command: list[str] = list(context.obj or [])
    if bool(images) == bool(command):
        raise typer.BadParameter("name images to read, or a command behind --, and not both.")
    # What is wrong here is told before the recording, not after it.
    stages, steps = stages_of(stage), pattern("--step", step)
    pattern("--modules", modules)
    if families:
        read_rules(families)
    if model_config:
        read_record(model_config)
    options = ProfileOptions(
        trace=trace, cuda_graph_trace=cuda_graph_trace, limit_s=limit, capture_range=capture_range,
        capture_range_end=capture_range_end, nvtx_capture=nvtx_capture, extra=tuple(nsys_option or ()),
    )  # fmt: skip
    settings = Settings(out=out, name=name, nsys=nsys, keep_variables=tuple(env or ()), profile=options)
    with Progress() as progress, _showing_the_log():
        if command:
            done = record_command(command, settings, sys.stderr, progress)
        else:
            job = Job(
                images=tuple(str(path.resolve()) for path in images_of(images or [])), prompt=prompt, model=model,
                max_new_tokens=max_new_tokens, repeat=repeat, batch=batch, warmup=warmup, modules=modules, seed=seed,
                device=device, dtype=dtype, use_flash_attn=flash_attn, trust_remote_code=trust_remote_code,
            )  # fmt: skip
            done = record_images(job, settings, sys.stderr, progress)

    def analysis_of(export: Path) -> Analysis:
        from dsprof.analysis import analyze

        return analyze(export, stages=stages, step=steps, threads=threads.value, families=families,
                       model_config=model_config)  # fmt: skip

    _analyze(done, analysis_of, top)


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
    from dsprof.nsys.watching import last_words

    words = last_words(log) if log.is_file() else []
    if words:
        say("\n".join([f"The last lines of {log}:", *(f"  {line}" for line in words)]), err=True)


def _analyze(done: Capture, analysis_of: Callable[[Path], Analysis], top: int) -> None:
    """Tables and summary of every report of a capture; the exit code is the captured program's."""
    for export in done.exports if done.recorded else ():
        analysis = analysis_of(export)
        show(analysis.summary(top), SummaryFormat.RICH, analysis.write())
    say(f"Session: {done.folder} (to pass on: all but the .nsys-rep, which keeps environments and arguments;")
    say("         user, host and folders stand in the export as well: `dsprof scrub` takes them out)")
    ending = done.profile.ending
    if ending in ("failed", "signalled", "unknown"):
        _show_log(done.profile.log)
    if done.trouble:
        raise done.trouble
    if not done.recorded:
        typer.echo("dsprof: Neither NVTX ranges nor CUDA events were recorded.", err=True)
    if ending != "finished" or done.profile.left:
        explained = done.profile.explain()
        say(f"dsprof: {explained[0].upper()}{explained[1:]}.", err=True)
    if done.profile.left:
        typer.echo("        With --nsys-option=--wait=all, the recording goes on until they end.", err=True)
    if ending == "unknown":  # nsys hung and was ended, and took the program's exit code with it
        raise typer.Exit(1)
    if ending in ("failed", "signalled", "interrupted"):
        raise typer.Exit(done.session.exit_code)


@app.command(epilog="Example: dsprof doctor --nsys /opt/nvidia/nsight-systems/2025.3.1/bin/nsys")
def doctor(nsys: Nsys = None) -> None:
    """Say whether a capture would work here, and what to do where it would not."""
    from dsprof.doctor import examine, works
    from dsprof.render.terminal import console, print_checks

    checks = examine(nsys)
    print_checks(checks, console())
    if not works(checks):
        raise typer.Exit(1)


@app.command(epilog="Example: dsprof scrub run.sqlite -o safe.sqlite")
def scrub(
    report: Annotated[Path, typer.Argument(metavar="REPORT.sqlite", help="An SQLite export.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy an export without environment, paths, users, hosts and process lists; every event row stays."""
    from dsprof.nsys.scrub import scrub as run

    done = run(report, output, force=force)
    say(f"{done.target}: {sum(done.kept.values())} rows kept, {sum(done.removed.values())} removed.")
    for what, times in done.found.items():
        say(f"  taken out of {times} texts: {what}")


@workloads.command(epilog="Example: dsprof workloads tiny checkpoint/ --seed 1")
def tiny(
    folder: Annotated[Path, typer.Argument(help="Where the checkpoint is written.")],
    size: Annotated[str, typer.Option(help="tiny, or full: the real sizes, for a GPU.")] = "tiny",
    seed: Annotated[int, typer.Option(min=-_MOST_SEED, max=_MOST_SEED, help="Of the random weights.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds something.")] = False,
) -> None:
    """Write a DeepSeek-OCR-2 checkpoint of the true classes with random weights."""
    from dsprof.workloads.tiny import save

    _check_model(size, dtype)
    say(f"Checkpoint: {save(folder, size, seed, dtype, force)}")


def _check_model(size: str, dtype: str) -> None:
    """A model that is not known, or a type of weights, is a usage error."""
    from dsprof.model_costs import ITEM_BYTES
    from dsprof.workloads.tiny import SIZES

    if size not in SIZES or dtype not in ITEM_BYTES:
        raise typer.BadParameter(f"the size is one of {', '.join(SIZES)}, the type one of {', '.join(ITEM_BYTES)}.")


@workloads.command(epilog="Example: dsprof workloads config full --image page.png > run.model.json")
def config(
    size: Annotated[str, typer.Argument(metavar="tiny|full", help="Which of the models that dsprof builds.")],
    image: Annotated[list[Path] | None, typer.Option(help="An image of each request; repeated: a batch.")] = None,
    dtype: Annotated[str, typer.Option(help="Type of the weights.")] = "bfloat16",
) -> None:
    """Print what --model-config reads: a model's configuration, and what its requests' images become."""
    import json

    from dsprof.render.safe import for_json
    from dsprof.workloads.describe import describe

    _check_model(size, dtype)
    typer.echo(for_json(json.dumps(describe(size, dtype, image or []), ensure_ascii=False)))


@workloads.command(epilog="Example: dsprof workloads page page.png")
def page(
    path: Annotated[Path, typer.Argument(help="The picture to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Draw a page of text to read."""
    from dsprof.workloads.page import draw

    say(f"Page: {draw(path, force=force)}")
