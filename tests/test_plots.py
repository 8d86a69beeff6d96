"""Figures draw what the tables hold, in the colours of the HTML report, and dwarf nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dsprof.analysis.analyze import Analysis, analyze
from dsprof.analysis.many import ManyAnalysis, analyze_many
from dsprof.measures.causes import CAUSES
from dsprof.page import colours
from dsprof.page.html import resource
from dsprof.show.scale import FAR, top_of
from test_many import made
from trace_builder import TraceBuilder

SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"
MS = 1e6
NO_STAGES = {"prefill": "^$", "decode": "^$"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples in it, where exports and tables may be left."""
    folder = tmp_path_factory.mktemp("plots")
    for name in ("h200-layers", "h200-two-processes", "h100-serve-graphs", "h100x2-node"):
        shutil.copy(SAMPLES / f"{name}.sqlite.xz", folder)
    return folder


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return analyze(folder / "h200-layers.sqlite.xz")


@pytest.fixture(scope="module")
def warm(folder: Path) -> Analysis:
    """Two processes whose first decodes load kernels: a step of them takes 200 times as long as any other."""
    return analyze(folder / "h200-two-processes.sqlite.xz")


@pytest.fixture(scope="module")
def serving(folder: Path) -> Analysis:
    return analyze(folder / "h100-serve-graphs.sqlite.xz")


@pytest.fixture(scope="module")
def bare(folder: Path) -> Analysis:
    """The first without stages and steps."""
    return analyze(folder / "h200-layers.sqlite.xz", stages=NO_STAGES, step="^$", remembered=False)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> ManyAnalysis:
    """Two ranks, the second slower."""
    folder = tmp_path_factory.mktemp("many")
    for rank in range(2):
        made(folder / f"tp-rank{rank}.sqlite", late=rank * 1_000_000)
    return analyze_many([folder], on="loop")


@pytest.fixture
def drawing():
    """The module under test, once it is known that it can draw."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[notebook]'").use("agg")
    from dsprof import plots

    return plots


def repeated(table: pd.DataFrame, times: int) -> pd.DataFrame:
    """The rows `times` over, as further instances."""
    copies = [table.assign(instance=table["instance"] + number) for number in range(times)]
    return pd.concat(copies, ignore_index=True)


def widths(figure) -> dict[str, list[float]]:
    """Lengths of the bars by colour's entry in the legend; what has no entry is under ``_``."""
    found: dict[str, list[float]] = {}
    for bars in figure.axes[0].containers:
        label = bars.get_label()
        found.setdefault("_" if label.startswith("_") else label, []).extend(bar.get_width() for bar in bars)
    return found


def shades(figure) -> dict[str, str]:
    """The colour of each entry of the legend."""
    from matplotlib.colors import to_hex

    found = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            patch = handle[0] if hasattr(handle, "patches") else handle
            colour = patch.get_color() if hasattr(patch, "get_color") else patch.get_facecolor()
            found[label] = to_hex(colour if isinstance(colour, str) or np.ndim(colour) == 1 else colour[0])
    return found


def said(figure) -> str:
    """All texts of a figure."""
    import matplotlib.text

    return "\n".join(one.get_text() for one in figure.findobj(matplotlib.text.Text) if one.get_text())


def labels_of(figure) -> list[str]:
    """What stands on the left of the bars."""
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


# -- steps -----------------------------------------------------------------------------------------------------


def test_step_latency_draws_duration_and_busy_time(analysis: Analysis, drawing) -> None:
    steps = analysis["step_trace"].dropna(subset=["step"])
    axes = drawing.step_latency(analysis).axes[0]
    latency, busy, legend = axes.lines
    np.testing.assert_array_equal(latency.get_xdata(), steps["step"].to_numpy(float))
    np.testing.assert_allclose(latency.get_ydata(), steps["duration_ns"].to_numpy(float) / MS)
    np.testing.assert_allclose(busy.get_ydata(), steps["gpu_busy_ns"].to_numpy(float) / MS)
    assert len(legend.get_xdata()) == 0
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_ylim()[0]) == ("step", "time (ms)", 0)


def test_many_decodes_share_one_entry_of_the_legend(analysis: Analysis, drawing) -> None:
    from dsprof.plots.steps import MOST_LINES

    steps = analysis["step_trace"].dropna(subset=["step"])
    figure = drawing.step_latency({"step_trace": repeated(steps, MOST_LINES + 1)})
    assert len(figure.axes[0].lines) == 2 * (MOST_LINES + 1) + 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["7 decodes", "GPU busy"]


def test_a_step_that_dwarfs_the_others_is_marked_with_its_number(warm: Analysis, drawing) -> None:
    steps = warm["step_trace"].dropna(subset=["step"])
    slow = steps[steps["duration_ns"] > 10 * steps["duration_ns"].median()]
    assert 0 < len(slow) < len(steps) / 10 and not slow["steady"].any()
    figure = drawing.step_latency(warm)
    axes = figure.axes[0]
    top = axes.get_ylim()[1] * 1e3  # it is in microseconds
    assert axes.get_ylabel() == "time (us)"
    rest = steps[~steps.index.isin(slow.index)]["duration_ns"].max()
    assert rest < top < 1.2 * rest < slow["duration_ns"].min()
    marks = [line for line in axes.lines if line.get_marker() == "^"]
    assert sorted(line.get_xdata()[0] for line in marks) == sorted(slow["step"])
    assert f"{len(slow)} off the scale (warm-up), up to 9.425 ms" in said(figure)
    assert slow["duration_ns"].max() == pytest.approx(9.425e6, rel=1e-3)
    assert "9.425 ms" in [text.get_text() for text in axes.texts]


def test_a_scale_has_room_for_all_but_what_dwarfs_the_rest() -> None:
    usual = [10.0] * 99
    assert top_of([*usual, 10.1 * FAR], [True] * 100) == 10.0
    assert top_of([*usual, 9.9 * FAR], [True] * 100) == 9.9 * FAR
    assert top_of([1000.0, *usual], [False, *[True] * 99]) == 10.0
    assert top_of([10.0] * 80 + [1000.0] * 20, [True] * 100) == 1000.0  # a fifth is no exception
    assert top_of([10.0, 1000.0], [True, True]) == 1000.0  # of two nobody knows which is usual
    assert top_of([1000.0, 10.0], [False, True]) == 10.0
    assert top_of([1000.0, 10.0], [False, False]) == 1000.0
    assert (top_of([], []), top_of([0.0], [True])) == (0.0, 0.0)


def test_steps_of_an_engine_are_drawn_by_mode_where_there_are_no_others(serving: Analysis, drawing) -> None:
    steps = serving["step_trace"]
    steps = steps[steps["interval_ns"].notna() & ~steps["pause"]]
    figure = drawing.step_latency(serving)
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines if line.get_label()[0] != "_"}
    for mode in ("prefill", "mixed", "decode"):
        of_mode = steps.loc[steps["mode"] == mode, "interval_ns"].to_numpy(float)
        np.testing.assert_allclose(drawn[mode], of_mode / MS)
    assert "3 off the scale (warm-up)" in said(figure)
    assert "not known in this report" in said(drawing.step_drift(serving))


def test_steps_are_drawn_over_their_context_with_outliers_apart(analysis: Analysis, drawing) -> None:
    steps = analysis["step_trace"].dropna(subset=["step"]).reset_index(drop=True)
    steps["steady"], steps["outlier"] = steps.index > 0, steps.index == 3
    steps["context_tokens"] = 1021 + 100 * steps.index
    whole = analysis["step_sum"].copy()
    drifts = {"duration_drift_ns_per_token": 500.0, "duration_drift_error_ns_per_token": 100.0,
              "gpu_busy_drift_ns_per_token": 500.0, "gpu_busy_drift_error_ns_per_token": 300.0}  # fmt: skip
    figure = drawing.step_drift({"step_trace": steps, "step_sum": whole.assign(**drifts)})
    host, gpu = figure.axes
    assert [text.get_text() for axes in (host, gpu) for text in axes.texts] == [
        "+500 ± 100 us per 1000 tokens", "no drift that can be told"
    ]  # fmt: skip
    for axes, column in ((host, "duration_ns"), (gpu, "gpu_busy_ns")):
        points, crosses = (dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.lines[:2])
        shown = {
            int(context): value / MS for context, value in zip(steps["context_tokens"], steps[column], strict=True)
        }
        assert {*points, *crosses} == {*shown} - {1021}  # the first is a warm-up
        assert list(crosses) == [1321]
        assert {**points, **crosses} == pytest.approx({key: value for key, value in shown.items() if key != 1021})
    slope = np.diff(host.lines[2].get_ydata()) / np.diff(host.lines[2].get_xdata())
    np.testing.assert_allclose(slope, 500 / MS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["decode 0", "outlier"]


# -- stages ----------------------------------------------------------------------------------------------------


def test_idle_causes_add_up_to_the_wall_time(analysis: Analysis, drawing) -> None:
    trace = analysis["stage_trace"].sort_values("start_ns")
    figure = drawing.idle_causes(analysis)
    axes = figure.axes[0]
    drawn = np.array([[bar.get_width() for bar in bars] for bars in axes.containers])
    columns = ["gpu_busy_ns", "wait_ns", *(f"idle_{cause}_ns" for cause in CAUSES)]
    trace["gpu_busy_ns"] -= trace["wait_ns"]
    np.testing.assert_allclose(drawn, trace[columns].to_numpy(float).T / MS)
    ends = [bar.get_x() + bar.get_width() for bar in axes.containers[-1]]
    np.testing.assert_allclose(ends, trace["wall_ns"].to_numpy(float) / MS)
    assert labels_of(figure) == ["prefill 0", "decode 0"]


def test_many_stages_are_drawn_as_the_means_of_the_steady_ones(analysis: Analysis, drawing) -> None:
    from dsprof.plots.stages import MOST_BARS

    trace = repeated(analysis["stage_trace"], MOST_BARS)
    trace.loc[trace["instance"] == 0, ["steady", "gpu_busy_ns"]] = [False, 10**12]
    figure = drawing.idle_causes({"stage_trace": trace})
    means = trace[trace["steady"]].groupby("stage", observed=True, sort=False)["gpu_busy_ns"].mean()
    assert widths(figure)["GPU works"] == pytest.approx(list(means / MS))
    assert labels_of(figure) == [f"{stage}\nmean of 11, 1 warm-up" for stage in means.index]


def test_a_bar_that_dwarfs_the_others_is_cut_and_says_how_long_it_is(warm: Analysis, drawing) -> None:
    trace = warm["stage_trace"].sort_values("start_ns").reset_index(drop=True)
    figure = drawing.idle_causes(warm)
    right = figure.axes[0].get_xlim()[1] * MS
    cut = trace[trace["wall_ns"] > right]
    assert len(cut) == 2 and not cut["steady"].any()
    texts = {text.get_text(): text.get_position()[1] for text in figure.axes[0].texts if "▶" in text.get_text()}
    assert texts == {"10.31 ms ▶": cut.index[0], "8.968 ms ▶": cut.index[1]}
    assert "2 off the scale (warm-up), up to 10.31 ms" in said(figure)
    assert [one.split("\n")[0] for one in labels_of(figure)] == [
        f"{stage} {instance}{'' if steady else ' (warm-up)'}"
        for stage, instance, steady in zip(trace["stage"], trace["instance"], trace["steady"], strict=True)
    ]


def test_a_long_stage_is_not_cut_because_another_is_short(analysis: Analysis, drawing) -> None:
    trace = analysis["stage_trace"].copy()
    trace["wall_ns"] = trace["wall_ns"].where(trace["stage"] != "prefill", 1000)
    assert "off the scale" not in said(drawing.idle_causes({"stage_trace": trace}))


def test_the_host_s_time_is_shared_out_without_rest(analysis: Analysis, drawing) -> None:
    table = analysis["stage_api_sum"].dropna(subset=["host_ns"])
    figure = drawing.host_time(analysis, most=2)
    found = widths(figure)
    np.testing.assert_allclose(np.sum(list(found.values()), axis=0), 100)
    outside = table[table["api_name"] == "(outside CUDA)"].set_index("stage")["host_pct"]
    assert found["(outside CUDA)"] == pytest.approx([outside["prefill"], outside["decode"]])
    inside = table[table["api_name"] != "(outside CUDA)"]
    most = inside.groupby("api_name", observed=True)["host_pct"].max().nlargest(2)
    assert list(found) == [*most.index, f"{inside['api_name'].nunique() - 2} more calls", "(outside CUDA)"]


def test_family_bars_are_the_shares_of_the_table(analysis: Analysis, drawing) -> None:
    table = analysis["stage_family_sum"]
    table = table[table["stage"] != "(no stage)"]
    figure = drawing.family_bars(analysis, most=3)
    stages = labels_of(figure)
    assert stages == ["prefill", "decode"]
    top = list(dict.fromkeys(table.sort_values("share_pct", ascending=False)["family"]))
    found = widths(figure)
    assert list(found) == [*top[:3], f"{len(top) - 3} more"]
    shares = table.set_index(["family", "stage"])["share_pct"]
    for family in top[:3]:
        assert found[family] == pytest.approx([shares.get((family, stage), 0.0) for stage in stages])
    np.testing.assert_allclose(np.sum(list(found.values()), axis=0), 100.0)
    assert figure.axes[0].get_xlabel().endswith("(%)")


# -- the GPU ---------------------------------------------------------------------------------------------------


def heights(axes) -> np.ndarray:
    """How high the stack of an area plot is in each bin, as its upper layer has it."""
    upper = axes.collections[-1].get_paths()[0].vertices
    edges = np.unique(upper[:, 0])
    middles = (edges[:-1] + edges[1:]) / 2
    return np.array([_top_at(upper, x) for x in middles])


def _top_at(outline: np.ndarray, x: float) -> float:
    """The highest point of an outline over `x`."""
    before, after = outline[:-1], outline[1:]
    over = (np.minimum(before[:, 0], after[:, 0]) <= x) & (x < np.maximum(before[:, 0], after[:, 0]))
    return float(np.maximum(before[over, 1], after[over, 1]).max())


def test_the_gpu_s_time_is_all_there_and_counted_once(analysis: Analysis, drawing) -> None:
    from dsprof.plots.gpu import BINS

    axes = drawing.gpu_over_time(analysis).axes[0]
    rows = pd.concat([analysis[name][["start_ns", "end_ns"]] for name in ("kern_trace", "mem_trace")])
    rows = rows.sort_values("start_ns")
    busy, reached = 0, 0
    for start, end in rows.itertuples(index=False):  # by the meaning of a union, one after another
        busy += max(end - max(start, reached), 0)
        reached = max(reached, end)
    first, last = rows["start_ns"].min(), rows["end_ns"].max()
    drawn = heights(axes)
    assert len(drawn) == BINS
    assert drawn.mean() / 100 * (last - first) == pytest.approx(busy, rel=1e-6)
    assert (axes.get_ylim(), axes.get_xlabel()) == ((0, 100), "time of the capture (s)")


def test_families_share_each_bin_by_their_time(drawing, tmp_path: Path) -> None:
    report = TraceBuilder()
    report.kernel("ampere_sgemm_128x64_tn", at=(0, 600), call=(0, 1), stream=7)
    report.kernel("ampere_sgemm_128x64_tn", at=(0, 600), call=(1, 2), stream=8)
    report.kernel("reduce_kernel", at=(0, 400), call=(2, 3), stream=9)
    report.kernel("reduce_kernel", at=(199_999, 200_000), call=(3, 4), stream=9)  # so that a bin is 1000 ns
    axes = drawing.gpu_over_time(analyze(report.write(tmp_path / "made.sqlite"))).axes[0]
    tops = [_top_at(layer.get_paths()[0].vertices, 0.4) for layer in axes.collections]  # the axis is in us
    assert tops == pytest.approx([60.0 * 1200 / 1600, 60.0])
    assert [layer.get_label() for layer in axes.collections] == ["gemm", "reduce"]


def test_each_gpu_has_axes_of_its_own(folder: Path, drawing, many: ManyAnalysis) -> None:
    node = drawing.gpu_over_time(analyze(folder / "h100x2-node.sqlite.xz"))
    assert [axes.get_ylabel() for axes in node.axes] == ["GPU 0\nbusy (%)", "GPU 1\nbusy (%)"]
    assert [axes.get_ylabel() for axes in drawing.gpu_over_time(many).axes] == ["rank 0\nbusy (%)", "rank 1\nbusy (%)"]


def test_the_kernels_that_take_longest_have_their_whole_time(analysis: Analysis, drawing) -> None:
    table = analysis["kern_sum"].nlargest(5, "total_ns")
    figure = drawing.top_kernels(analysis, most=5)
    drawn = [bar.get_width() for bars in figure.axes[0].containers for bar in bars]
    np.testing.assert_allclose(drawn, table["total_ns"] / MS)
    assert [re.match(r" [\d.]+ %", text.get_text())[0] for text in figure.axes[0].texts if "%" in text.get_text()] == [
        f" {share:.1f} %" for share in table["share_pct"]
    ]


# -- several ranks ---------------------------------------------------------------------------------------------


def test_ranks_have_bars_and_lines_of_their_own(many: ManyAnalysis, drawing) -> None:
    shares = drawing.family_bars(many)
    assert set(labels_of(shares)) == {f"{stage}, rank {rank}" for stage in ("prefill",) for rank in range(2)}
    np.testing.assert_allclose(np.sum(list(widths(shares).values()), axis=0), 100.0)
    bars = labels_of(drawing.idle_causes(many))
    assert all(re.search(r"rank [01]$", one) or re.search(r", rank [01]\n", one) for one in bars)
    trace = many["stage_trace"]
    assert len(bars) in (len(trace), 2 * trace["stage"].nunique())
    for name in drawing.__all__:
        getattr(drawing, name)(many).savefig("/dev/null", format="svg")


def test_ranks_of_one_report_are_called_so(folder: Path, drawing) -> None:
    node = analyze(folder / "h100x2-node.sqlite.xz")
    ranks = dict(zip(node["rank_sum"]["pid"], node["rank_sum"]["rank"], strict=True))
    trace = node["stage_trace"]
    figure = drawing.idle_causes(node)
    for label, length in zip(labels_of(figure), widths(figure)["waiting for ranks"], strict=True):
        stage, rank = re.match(r"(\w+), rank (\d)", label).groups()
        of = trace[(trace["stage"] == stage) & (trace["pid"].map(ranks) == int(rank)) & trace["steady"]]
        assert length == pytest.approx(of["wait_ns"].astype(float).mean() / MS)


# -- reports without stages ------------------------------------------------------------------------------------


def test_a_report_without_stages_shows_what_the_gpu_did(bare: Analysis, drawing, tmp_path: Path) -> None:
    assert bare["stage_trace"].empty and bare["step_trace"].empty
    over_time = (
        drawing.step_latency,
        drawing.step_drift,
        drawing.idle_causes,
        drawing.engine_steps,
        drawing.engine_batch,
    )
    expected = heights(drawing.gpu_over_time(bare).axes[0])
    for draw in over_time:
        figure = draw(bare)
        np.testing.assert_array_equal(heights(figure.axes[0]), expected)
        assert "in this report" in said(figure)
        figure.savefig(tmp_path / f"{draw.__name__}.svg")
    families = drawing.family_bars(bare)
    sums = bare["kern_trace"].groupby("family", observed=True)["duration_ns"].sum()
    share = 100 * sums / sums.sum()
    assert widths(families)["gemm"] == pytest.approx([share["gemm"]])
    assert (labels_of(families), "name its ranges with stages=" in said(families)) == (["whole report"], True)
    calls = bare["stage_api_sum"].set_index("api_name")["total_ns"]
    host = widths(drawing.host_time(bare))
    assert host["cudaLaunchKernel"] == pytest.approx([100 * calls["cudaLaunchKernel"] / calls.sum()])
    assert sum(sum(one) for one in host.values()) == pytest.approx(100.0)


def test_tables_without_rows_get_a_sentence(analysis: Analysis, drawing, tmp_path: Path) -> None:
    needed = ("step_trace", "step_sum", "stage_trace", "stage_family_sum", "stage_kern_sum", "stage_api_sum")
    nothing = {name: analysis[name].head(0) for name in needed}
    report = TraceBuilder().range("other", 0, 9).write(tmp_path / "empty.sqlite")
    for tables in (nothing, analyze(report)):
        for name in drawing.__all__:
            if name != "rank_heatmap":
                figure = getattr(drawing, name)(tables)
                assert "in this report" in said(figure), name
                figure.savefig(tmp_path / f"{name}.svg")


@pytest.mark.filterwarnings("error")
def test_reports_that_are_small_or_odd_are_drawn(drawing, tmp_path: Path) -> None:
    one = TraceBuilder().range("decode", 0, 100).range("decode.step", 0, 90).kernel("k", at=(10, 20), call=(5, 6))
    instant = TraceBuilder().range("prefill", 5, 5).kernel("k", at=(7, 7), call=(5, 5))
    for place, report in enumerate((one, instant)):
        analysis = analyze(report.write(tmp_path / f"{place}.sqlite"))
        for name in drawing.__all__:
            if name != "rank_heatmap":
                getattr(drawing, name)(analysis).savefig(tmp_path / "drawn.png")


# -- colours ---------------------------------------------------------------------------------------------------


def test_figures_have_the_colours_of_the_page(analysis: Analysis, serving: Analysis, drawing) -> None:
    families = {**shades(drawing.family_bars(analysis)), **shades(drawing.gpu_over_time(analysis))}
    for family in ("gemm", "attention", "elementwise", "copy", "reduce"):
        assert families[family] == colours.value(colours.of_family(family))
    causes = shades(drawing.idle_causes(analysis))
    short = {cause.short: colours.value(colours.CAUSE[name]) for name, cause in CAUSES.items()}
    assert {name: shade for name, shade in causes.items() if name in short} == {
        name: short[name] for name in causes if name in short
    }
    assert causes["GPU works"] == colours.value(colours.BUSY)
    page = serving.page()
    light = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", page[: page.index("}")]))
    for mode, shade in shades(drawing.engine_steps(serving)).items():
        if mode != "warm-up":
            place = re.search(rf'<li><svg[^>]*>(?:(?!</svg>).)*class="(\w+)"(?:(?!</li>).)*</svg>{mode}</li>', page)
            assert place and shade == light[place[1]]
    launches = shades(drawing.host_time(analysis))
    assert launches["cudaLaunchKernel"] == short["launch calls"]


#: How colours look to who lacks the cones for green, and for red (Machado, Oliveira and Fernandes 2009, linear RGB).
BLIND = {
    "normal": np.eye(3),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
}  # fmt: skip
#: CIE 1976: about 2 is what can just be seen side by side.
APART, FAR_APART = 7.5, 11.5
LARGE = ("busy", "waiting", "p0", "p1", "p2", "p3", "p4", "p5", "p6", "p11")


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    """A colour in CIELAB as somebody sees it."""
    coded = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    xyz = to_xyz @ np.clip(seen @ linear, 0, 1) / np.array([0.95047, 1, 1.08883])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eyes", BLIND)
def test_colours_stay_apart_for_colour_blind_readers(theme: str, eyes: str) -> None:
    blocks = [block for block in resource("style.css").split("}") if "--p0:" in block]
    block = blocks[0 if theme == "light" else 1]
    palette = dict(re.findall(r"--(p\d+|busy|waiting): (#[0-9a-f]{6})", block))
    assert len(palette) == 19
    seen = {name: lab(colour, BLIND[eyes]) for name, colour in palette.items()}
    for one, other in combinations(palette, 2):
        least = FAR_APART if {one, other} <= set(LARGE) else APART
        assert np.linalg.norm(seen[one] - seen[other]) > least, (one, other)
    outlier = lab(re.search(r"--bad: (#[0-9a-f]{6})", block)[1], BLIND[eyes])
    for stage in colours.STEPS[:4]:
        assert np.linalg.norm(seen[stage] - outlier) > 10, stage


def test_dark_themes_and_print_have_the_same_colours_as_their_like() -> None:
    palettes = [re.findall(r"--(p\d+|busy|waiting): (#[0-9a-f]{6})", block)
                for block in resource("style.css").split("}") if "--p0:" in block]  # fmt: skip
    light, dark, chosen_dark, printed = palettes
    assert (dark, light) == (chosen_dark, printed)


# -- pyplot ----------------------------------------------------------------------------------------------------


def test_pyplot_keeps_no_figure(analysis: Analysis, drawing) -> None:
    from matplotlib import pyplot as plt

    drawing.family_bars(analysis)
    drawing.gpu_over_time(analysis)
    assert plt.get_fignums() == []


def test_importing_plots_loads_no_matplotlib() -> None:
    program = "import sys, dsprof.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
