"""What a serving engine ran: its modes, its batch over time, tokens a second."""

from __future__ import annotations

from collections.abc import Sequence

from dsprof.page.html import Html, element, joined
from dsprof.page.parts import Section, cols, figure, legend, scrolling, table_of
from dsprof.page.source import Source
from dsprof.page.svg import BOTTOM, LEFT, WIDTH, Part, Scale, bar, drawing, line, path, round_numbers, tick, words
from dsprof.show import units
from dsprof.show.summary import WorkerLine

_HOW = (
    "A step of an engine is called by what it did: prefill, decode, both (mixed). A bar is the time of a thread's "
    "steps by mode. Output is one token for each request that generates, at least; the token interval is the time "
    "from one to the next. Pauses, in which the engine had no request, are left out of rates."
)
_COLUMNS = cols({
    "engine": "engine", "pid": "pid", "tid": "thread", "mode": "mode", "steps": "steps", "pauses": "pauses",
    "active_ns": "active", "in_range_ns": "in ranges", "after_range_ns": "after", "between_ns": "between",
    "gpu_busy_ns": "GPU busy", "kernels": "kernels", "output_tokens_per_s": "output/s",
    "context_tokens_per_s": "prompt/s", "token_interval_p50_ns": "interval p50", "token_interval_p99_ns": "p99",
    "max_requests": "most requests",
})  # fmt: skip
_MOST_WORKERS = 8
_HEIGHT = 170


def section(source: Source) -> Section | None:
    """Each thread by mode, and how full its steps were."""
    summary = source.summary
    if not summary.engines:
        return None
    workers = [one for one in summary.workers if one.alike][:_MOST_WORKERS]
    modes = list(dict.fromkeys(line.mode for line in summary.engines if line.mode))
    bars = [_bar(source, one, modes) for one in workers]
    plot = figure("Time of the steps of each thread by mode", joined(bars),
                  legend((mode, source.stage_colour(mode)) for mode in modes))  # fmt: skip
    rows = source.table("engine_sum").to_pylist()
    table = table_of("engine_sum", _COLUMNS, rows, "A thread over all its steps, and by mode")
    spans = {(row["pid"], row["tid"]): row["span_ns"] for row in rows if row["span_ns"] is not None}
    curves = [_curve(one, spans.get((one.pid, one.tid))) for one in workers]
    return Section("engine", "Engine", joined(plot, *curves, table), _HOW)


def _bar(source: Source, worker: WorkerLine, modes: Sequence[str]) -> Html:
    took = {line.mode: line.in_range_ns + line.after_range_ns + line.between_ns for line in source.summary.engines
            if (line.pid, line.tid) == (worker.pid, worker.tid) and line.mode}  # fmt: skip
    whole = sum(took.values()) or 1
    alike = f" (and {worker.alike - 1} alike)" if worker.alike > 1 else ""
    parts = [Part(100 * took.get(mode, 0) / whole, mode, source.stage_colour(mode)) for mode in modes]
    return bar(f"{worker.engine} {worker.pid}{alike}", parts)


def _curve(worker: WorkerLine, span_ns: int | None) -> Html:
    """The mean number of requests in a step, in equal stretches of the thread's time, which `span_ns` is in all."""
    values = [value for value in worker.requests if value is not None]
    if not values or len(values) < len(worker.requests) or not max(values):
        return Html("")
    y, width = Scale(0, 1.1 * max(values), _HEIGHT - BOTTOM, 8), (WIDTH - LEFT) / len(values)
    parts = [part for value in round_numbers(max(values), 4) for part in
             (line(LEFT, y(value), WIDTH, y(value)), words(LEFT - 8, y(value) + 4, f"{value:g}", "end"))]  # fmt: skip
    if span_ns:
        x = Scale(0, span_ns, LEFT, WIDTH)
        parts += [words(x(at), _HEIGHT - 9, tick(units.time(at)), "middle") for at in round_numbers(0.97 * span_ns, 10)]
    columns = [f"M{LEFT + at * width:.1f} {y(0):.1f}h{width - 1:.1f}V{y(value):.1f}h-{width - 1:.1f}z"
               for at, value in enumerate(values)]  # fmt: skip
    said = ", ".join(units.rate(value) for value in values)
    picture = drawing(f"Requests in a step over time: {said}", _HEIGHT, *parts, path(columns, "p1"))
    plot = element("div", scrolling(picture, "Requests over time"), class_="plot")
    return figure(f"Requests in a step of {worker.pid} over time", plot)
