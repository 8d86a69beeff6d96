"""The page of a comparison, read as a file: its numbers are the tables', its bars add up, its names are text."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve

import dsprof
from dsprof.analysis.diff import Comparison
from dsprof.compare.kernels import RENAMED, REPLACED, SAME
from dsprof.compare.outcome import PERCENTILES
from dsprof.compare.tables import TABLES
from dsprof.page import comparison
from dsprof.page.html import LONGEST
from dsprof.show import diff, units
from dsprof.show.safe import for_html
from test_diff import made
from test_page import BAD, Page, ids_twice

USUAL = ("gemm_a<1>", "norm", "gemm_a<1>", "softmax")
#: Slower, another version of a kernel, one more, one less, a call that waits.
CHANGED = {"names": ("gemm_a<2>", "norm", "gemm_a<2>", "added"), "each": 4_400, "sync": True, "host": 11_000}


def compared(folder: Path, before: dict, after: dict, **options: object) -> Comparison:
    """Two made reports, compared."""
    folder.mkdir(exist_ok=True)
    paths = [made(folder / f"{name}.sqlite", **given) for name, given in (("before", before), ("after", after))]
    return dsprof.diff(*paths, **options)


def hostile(folder: Path) -> Comparison:
    """A comparison whose kernels, stages and runs have hostile names."""
    names = tuple(BAD)
    found = compared(folder, {"names": (*names, "norm")}, {"names": ("norm", *names[1:], "<b>new</b>"), "sync": True})
    before, after = (
        evolve(side, runs=(BAD[1],), gpus=(BAD[0],)) for side in (found.outcome.before, found.outcome.after)
    )
    stages = tuple(evolve(stage, stage=BAD[at]) for at, stage in enumerate(found.outcome.stages))
    return Comparison(evolve(found.outcome, before=before, after=after, stages=stages))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compared(tmp_path_factory.mktemp("changed") / "x", {}, CHANGED, gates=["default"])


def test_every_row_is_a_row_of_a_table_of_the_comparison(changed: Comparison) -> None:
    shown = [one for one in Page(changed.page()).tables if one[0]]
    assert {table for table, _, _ in shown} == {"waterfall", "percentiles", "operations", "counts", "calls"}
    for table, columns, rows in shown:
        kinds = {column.name: column.kind for column in TABLES[table].columns}
        numbers = [column for column in columns if kinds[column] != "name"]
        known = {tuple(None if row[column] is None else str(row[column]) for column in numbers)
                 for row in changed.arrow(table).to_pylist()}  # fmt: skip
        found = {tuple(raw for column, (_, raw) in zip(columns, row, strict=True) if column in numbers) for row in rows}
        assert found == known, table
        assert len(rows) == changed.arrow(table).num_rows


_BAR = re.compile(r'<rect x="([\d.]+)"[^>]*width="([\d.]+)"[^>]*><title>([^<]*)</title>')


def test_bars_go_from_the_wall_time_before_to_that_after(changed: Comparison) -> None:
    """Each begins where the one above it ends, and they say what the table says."""
    plots = re.findall(r'<svg[^>]*aria-label="[^"]*: from .*?</svg>', changed.page(), re.DOTALL)
    assert len(plots) == len(changed.outcome.stages) == 2
    for plot, stage in zip(plots, changed.outcome.stages, strict=True):
        (left, width, first), *parts, (begin, whole, last) = _BAR.findall(plot)
        before, after = diff.wall_of(stage)
        told = [(name, then - at) for name, at, then in diff.parts_of(stage) if at != then]
        assert [said for *_, said in parts] == [f"{name}: {units.signed(by, units.time)}" for name, by in told]
        assert (first, last) == (f"wall before: {units.time(before)}", f"wall after: {units.time(after)}")
        assert before + sum(by for _, by in told) == after
        at = float(left) + float(width)
        for (x, width, _), (_, by) in zip(parts, told, strict=True):
            ends = [float(x), float(x) + float(width)]
            assert ends[by < 0] == pytest.approx(at, abs=1.6)
            at = ends[by > 0]
        assert float(begin) + float(whole) == pytest.approx(at, abs=1.6)


def test_a_small_change_of_a_long_time_is_seen_and_the_scale_says_so(tmp_path: Path) -> None:
    text = compared(tmp_path / "x", {}, {"host": 9_040}).page()
    assert "The scale begins at" in text
    assert "The scale begins at" not in compared(tmp_path / "y", {}, {"host": 30_000}).page()
    assert "The scale begins at" not in compared(tmp_path / "z", {}, {}).page()


def test_percentiles_are_those_of_the_steps(tmp_path: Path) -> None:
    found = compared(tmp_path / "x", {"slow": (0, 400)}, {"slow": (0, 800)})
    rows = found["percentiles"].query("stage == 'decode' and measure == 'gpu_busy'")
    assert rows["percentile"].tolist() == list(PERCENTILES)
    assert rows["before_ns"].tolist() == [16_000] * 8 + [17_600] * 7
    assert rows["after_ns"].tolist() == [16_000] * 8 + [19_200] * 7


def test_what_came_and_went_is_told(changed: Comparison) -> None:
    text = changed.page()
    _, columns, rows = next(one for one in Page(text).tables if one[0] == "operations")
    name, match = columns.index("before"), columns.index("match")
    of = {row[name][0]: row[match][0] for row in rows}
    assert of["norm"] == SAME and {RENAMED, REPLACED} & set(of.values())
    assert [one for one in of if "gemm" in one and " -> " in one]
    told = [*map(diff.judged, changed.outcome.stages), *(sentence for _, sentence in diff.gates(changed.outcome))]
    assert [one for one in told if for_html(one) not in text] == []
    assert "<b>not passed</b>" in text


def test_every_name_of_an_element_is_given_once(changed: Comparison) -> None:
    assert ids_twice(changed.page()) == []


def test_names_are_text(tmp_path: Path) -> None:
    text = hostile(tmp_path / "x").page()
    page = Page(text)
    assert (
        len(page.of("script")) == 2 and len(page.of("style")) == 1 and not page.of("img") and not page.of("b onclick")
    )
    assert not [name for name, about in page.elements for key in about if key.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\ud800-\udfff]", text)
    assert text.count("x" * (LONGEST + 1)) == 0
    assert "window.pwned=1" in text and "<b>new" not in text


def test_it_stays_small_with_very_many_operations_and_stages(tmp_path: Path) -> None:
    names = tuple(f"kernel_{number}<{'int, ' * 30}>" for number in range(900))
    found = compared(tmp_path / "x", {"names": names, "requests": 1, "steps": 2}, {"names": names[::2], "requests": 1,
                                                                                 "steps": 2})  # fmt: skip
    many = tuple(evolve(found.outcome.stages[0], stage=f"stage {number}") for number in range(100))
    text = Comparison(evolve(found.outcome, stages=many)).page()
    assert len(text.encode()) < 500_000
    assert f"The {comparison.MOST_OPERATIONS} of " in text
    assert text.count("its wall time before and after") == comparison.MOST_STAGES


def test_what_is_not_comparable_has_a_page_that_says_why(tmp_path: Path) -> None:
    found = compared(tmp_path / "x", {}, {"gpu": "NVIDIA H100"}, gates=["default"])
    assert found.outcome.refused
    text = found.page()
    assert "GPU differs" in text and text.index("GPU differs") < text.index("was not compared")
    assert 'id="difference"' not in text


def test_the_command_prints_the_page(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made(tmp_path / f"{name}.sqlite")
    command = [sys.executable, "-m", "dsprof", "diff", "one.sqlite", "two.sqlite", "--format", "html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == dsprof.diff(tmp_path / "one.sqlite", tmp_path / "two.sqlite").page().rstrip("\n")
