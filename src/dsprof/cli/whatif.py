"""``dsprof whatif``: what steps would take if something were otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from attrs import asdict

from dsprof.cli.analyze import SummaryFormat
from dsprof.cli.options import (
    AnalysisFlags,
    DefaultRules,
    Report,
    SelectionFlags,
    analyzed,
    app,
    load_numpy,
    pattern,
    tell_remembered,
    with_flags,
)
from dsprof.cli.progress import Progress
from dsprof.records import frozen

if TYPE_CHECKING:
    from dsprof.analysis.options import AnalysisOptions


def _factor(option: str, text: str) -> float:
    """``0.5x`` as a number; anything else is a usage error."""
    from dsprof.answers.what_if import factor

    try:
        return factor(float(text.removesuffix("x")))
    except ValueError as error:
        raise typer.BadParameter(f"{option} '{text}' is no factor like 0.5x.") from error


def _factors(option: str, given: Iterable[str] | None) -> dict[str, float]:
    """``NAME=0.5x`` options as a dictionary."""
    found = {}
    for text in given or ():
        name, separator, factor = text.rpartition("=")
        if not (name and separator):
            raise typer.BadParameter(f"{option} '{text}' is not NAME=0.5x.")
        found[name] = _factor(option, factor)
    return found


@frozen
class WhatIfFlags(AnalysisFlags):
    """The same options, but that ``--stage decode`` chooses a stage."""

    stage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=REGEX]",
            help="The stage to tell of, all by default; with =REGEX, ranges whose name holds it are that stage. Can be "
            "repeated.",
        ),
    ] = None

    @property
    def chosen(self) -> tuple[str, ...]:
        """The stages to tell of."""
        return tuple(text for text in self.stage or () if "=" not in text)

    def options(self, **more: Any) -> AnalysisOptions:
        """As of any analysis."""
        rules = [text for text in self.stage or () if "=" in text]
        return AnalysisFlags(**{**asdict(self), "stage": rules}).options(**more)


@app.command(epilog="Example: dsprof whatif run.nsys-rep --stage decode --cuda-graphs --family gemm=0.5x")
@with_flags
def whatif(
    report: Report,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="What a step launches between two waits is one CUDA graph.")
    ] = False,
    no_sync: Annotated[
        bool, typer.Option("--no-sync", help="The host waits for nothing but what it copies from the GPU.")
    ] = False,
    no_pageable: Annotated[bool, typer.Option("--no-pageable", help="The host's memory is pinned.")] = False,
    host: Annotated[str, typer.Option(metavar="0.5x", help="The host's own time, by a factor.")] = "1x",
    family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=0.5x", help="GPU time of a kernel family, by a factor. Can be repeated."),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX=0.5x", help="GPU time of kernels whose name holds REGEX. Can be repeated."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Another batch: refused, as its kernels are not known.")
    ] = None,
    format_: Annotated[SummaryFormat, typer.Option("--format", help="How to print it.")] = SummaryFormat.RICH,
    default_rules: DefaultRules = False,
    *,
    selected: SelectionFlags,
    flags: WhatIfFlags,
) -> None:
    """Run the steady steps of a report again with something changed, and say what they would take.

    Nothing is predicted for a stage that, run again without a change, differs from the recording by more than 5 %.
    """
    load_numpy()
    for text in kernel or ():
        pattern("--kernel", text.rpartition("=")[0])
    families, kernels = _factors("--family", family), _factors("--kernel", kernel)
    from dsprof.answers.what_if import Changes
    from dsprof.errors import NotPredictable
    from dsprof.show import plain, terminal

    changes = Changes(
        cuda_graphs=cuda_graphs, no_sync=no_sync, no_pageable=no_pageable, host=_factor("--host", host),
        families=families, kernels=kernels, batch=batch,
    )  # fmt: skip
    options = flags.options(tables=[], remembered=not default_rules, **selected.options)
    with Progress() as progress:
        analysis = analyzed(report, options, progress)
        found = analysis.predict(changes, *flags.chosen)
    tell_remembered(analysis)
    if format_ is SummaryFormat.RICH:
        terminal.print_what_if(found, terminal.console())
    elif format_ is SummaryFormat.MARKDOWN:
        typer.echo(plain.what_if_markdown(found))
    else:
        typer.echo(plain.what_if_json(found))
    refused = [one.refused for one in found.stages if one.refused]
    if len(refused) == len(found.stages):
        raise typer.Exit(NotPredictable.exit_code)
