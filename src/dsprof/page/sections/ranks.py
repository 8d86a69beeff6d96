"""Who waits for whom: ranks beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from dsprof.page import colours
from dsprof.page.html import Html, element, joined
from dsprof.page.parts import Section, cols, figure, folded, legend, scrolling, table_of
from dsprof.page.source import Source
from dsprof.page.svg import Part, bar
from dsprof.show.reports import heat_cell
from dsprof.show.summary import RankLine

_HOW = (
    "Ranks that make their collectives together are compared. Waiting is a rank's own time in a collective less the "
    "time of its shortest match: no work. The rank that waits least is the one that the others wait for: last says "
    "of how many collectives it began last. The map shows how far a rank is from the median rank in percent: red "
    "takes longer."
)
_SUM = cols({
    "stage": "stage", "rank": "rank", "pid": "pid", "device_id": "device", "collectives": "collectives",
    "matched": "matched", "compute_busy_ns": "compute", "transfer_exposed_ns": "transfer",
    "wait_exposed_ns": "waiting", "unmatched_exposed_ns": "unmatched", "other_busy_ns": "other", "busy_ns": "busy",
    "wall_ns": "wall", "last_pct": "last", "transfer_hidden_ns": "hidden", "launches": "launches",
})  # fmt: skip
_OPERATIONS = cols({
    "stage": "stage", "operation": "operation", "rank": "rank", "pid": "pid", "device_id": "device",
    "collectives": "n", "matched": "matched", "total_ns": "total", "transfer_ns": "transfer", "wait_ns": "waiting",
    "last_pct": "last",
})  # fmt: skip
#: Percent from the median rank at which the colour of a cell is full, and the steps until there.
FULL_PCT, SHADES = 25.0, 5
_HEATED = (("wall_vs_median_pct", "wall"), ("compute_vs_median_pct", "compute"), ("host_vs_median_pct", "host"))


def section(source: Source) -> Section | None:
    """Bars, the map, and the tables."""
    lines = source.summary.ranks
    if not lines:
        return None
    bars = [bar(f"{line.stage} {name(line)}", _parts(line)) for line in lines]
    seen = [("compute", colours.BUSY), ("transfer", "p5"), ("waiting", colours.WAITING), ("unmatched", "p6"),
            ("other", "p3"), ("idle", colours.QUIET)]  # fmt: skip
    plot = figure("Wall time of all instances on each rank, warm-up included, in percent", joined(bars), legend(seen))
    stages = {line.stage for line in lines}
    rows = [row for row in source.table("rank_sum").to_pylist() if row["stage"] in stages]
    shown = table_of("rank_sum", _SUM, rows, "A stage on each rank", sortable=True)
    operations = source.table("collective_sum").to_pylist()
    each = folded("By operation", table_of("collective_sum", _OPERATIONS, operations, "Collectives by stage, operation "
                                           "and rank", sortable=True))  # fmt: skip
    return Section("ranks", "Ranks", joined(plot, _heat(rows), shown, each), _HOW)


def name(line: RankLine) -> str:
    """What a rank is called."""
    return f"{line.pid} on {line.device_id}" if line.rank is None else f"rank {line.rank}"


def _parts(line: RankLine) -> list[Part]:
    whole = max(line.wall_ns or line.busy_ns, 1)
    times = ((line.compute_busy_ns, "compute", colours.BUSY), (line.transfer_exposed_ns, "transfer", "p5"),
             (line.wait_exposed_ns, "waiting", colours.WAITING), (line.unmatched_exposed_ns, "unmatched", "p6"),
             (line.other_busy_ns, "other", "p3"), (max(whole - line.busy_ns, 0), "idle", colours.QUIET))  # fmt: skip
    return [Part(100 * (time or 0) / whole, text, colour) for time, text, colour in times]


def _heat(rows: Sequence[dict[str, object]]) -> Html:
    """Stages by ranks, percent from the median rank, of what is known."""
    ranks = list(dict.fromkeys(_label(row) for row in rows))
    head = [element("th", word, scope="col", class_="l" if at < 2 else None)
            for at, word in enumerate(("stage", "of", *ranks))]  # fmt: skip
    body = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        of = {_label(row): row for row in rows if row["stage"] == stage}
        for column, word in _HEATED:
            values = [of[rank][column] if rank in of else None for rank in ranks]
            if any(value is not None for value in values):
                cells = [heat(value) for value in values]
                body.append(
                    element("tr", element("td", str(stage), class_="l"), element("td", word, class_="l"), *cells)
                )
    if not body:
        return Html("")
    table = element("table", element("caption", "Percent from the median rank"), element("thead", element("tr", *head)),
                    element("tbody", *body), class_="heat")  # fmt: skip
    return scrolling(table, "Percent from the median rank")


def heat(value: object) -> Html:
    """A cell of a map."""
    if not isinstance(value, int | float):
        return element("td", heat_cell(None))
    shade = min(round(SHADES * abs(value) / FULL_PCT), SHADES)
    colour = f"{'hot' if value > 0 else 'cold'}{shade}" if shade else None
    return element("td", heat_cell(float(value)), class_=colour, data_v=value)


def _label(row: dict[str, object]) -> str:
    return f"{row['pid']} on {row['device_id']}" if row["rank"] is None else f"rank {row['rank']}"
