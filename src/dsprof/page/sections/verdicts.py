"""What limits each stage: the verdicts, with the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from dsprof.answers.verdicts import GPU, Verdict
from dsprof.page.html import Html, element, joined
from dsprof.page.parts import Section
from dsprof.page.source import Source
from dsprof.show import units
from dsprof.show.layout import coverage, verdicts
from dsprof.show.summary import RequestLine

_HOW = (
    "A verdict is on the steady instances of a stage; what a program does once, its warm-up, is left out. Its word "
    "says what most of the time goes to that the GPU does not work in: GPU-bound is a stage in which it works "
    "nearly all the time. The times in a card are sums over these instances, or of a step, where the stage has "
    "steps."
)

_HOW_WITHOUT = (
    "Verdicts are on stages: ranges whose names a rule knows, as prefill and decode, or one of your own. Without them "
    "the kernels, their families and the ranges of the whole report are what there is to look at."
)


def section(source: Source) -> Section | None:
    """The cards of all stages that have a verdict, and a request in four numbers."""
    shown = verdicts(source.summary)
    tiles = _tiles(source.summary.requests)
    if not shown and not tiles:
        return _of_no_stage(source)
    cards = element("div", *map(_card, shown), class_="cards")
    return Section("verdicts", "In short", joined(element("div", *tiles, class_="tiles") if tiles else "", cards), _HOW)


def _of_no_stage(source: Source) -> Section | None:
    """How busy the GPU was, and what would tell more."""
    said = [coverage(source.summary), *(str(one) for one in source.summary.findings if one.code == "no-stages")]
    body = [element("p", text) for text in said if text]
    return Section("verdicts", "In short", joined(body), _HOW_WITHOUT) if body else None


def _card(verdict: Verdict) -> Html:
    kind = element("span", verdict.kind, class_="kind ok" if verdict.kind == GPU else "kind")
    facts = [part for word, text in _evidence(verdict) for part in (element("dt", word), element("dd", text))]
    return element(
        "article", element("h3", verdict.stage, " ", kind), element("p", verdict.sentence),
        element("p", verdict.remedy, class_="dim"), element("dl", *facts, class_="facts"), class_="card",
    )  # fmt: skip


def _evidence(one: Verdict) -> Iterator[tuple[str, str]]:
    """The numbers of a verdict that are known, with their words."""
    aside = f" ({one.warm_up} of warm-up left out)" if one.warm_up else ""
    yield "instances", f"{units.count(one.instances)}{aside}"
    yield "wall time", units.time(one.wall_ns)
    yield "GPU working", f"{units.time(one.gpu_busy_ns)}, {units.percent(one.busy_pct)}"
    if one.wait_ns:
        yield "waiting for ranks", units.time(one.wait_ns)
    for word, step_us in (("step", one.step_us), ("GPU for a step", one.limit_us), ("step at the roof", one.roof_us),
                          ("step without the profiler", one.plain_step_us),
                          ("step as a CUDA graph", one.graphs_step_us)):  # fmt: skip
        if step_us is not None:
            yield word, units.time(1e3 * step_us)
    for word, number in (("launches per step", one.launches_per_step), ("kernels per step", one.kernels_per_step)):
        if number is not None:
            yield word, units.rate(number)
    yield "mean kernel", units.time(1e3 * one.kernel_mean_us)
    if one.bound_by is not None:
        yield "bound by", one.bound_by


#: What a request took, by column.
_TILES = (
    ("ttft_host_ns", "time to first token"), ("tpot_host_ns", "time per output token"),
    ("tpot_busy_ns", "of it, the GPU works"), ("e2e_ns", "a request, end to end"),
)  # fmt: skip


def _tiles(requests: tuple[RequestLine, ...]) -> list[Html]:
    """Medians over the steady requests."""
    steady = [line for line in requests if line.steady] or list(requests)
    found = []
    for name, word in _TILES:
        values = [value for line in steady if (value := getattr(line, name)) is not None]
        if values:
            number = element("b", units.time(median(values)), data_median=name)
            found.append(element("div", number, element("span", word), class_="tile"))
    return found
