"""The lessons run from top to bottom and show something; figures draw what the tables hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dsprof.analysis.analyze import Analysis, analyze
from dsprof.measures.causes import CAUSES

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "traces" / "samples"
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDED = (
    "h200-stages", "h200-layers", "h200-graphs-node", "h100-serve-graphs", "h100x2-gpu-rank0", "h100x2-gpu-rank1",
)  # fmt: skip
SECONDS = 60  # a lesson takes a few; that is what the longest may take
MS = 1e6


def layout(folder: Path, names: tuple[str, ...] = NEEDED) -> Path:
    """The lessons and their packed samples, laid out below `folder` as in the repository; returns the samples."""
    samples = folder / "traces" / "samples"
    samples.mkdir(parents=True)
    for name in names:
        packed = SAMPLES / f"{name}.sqlite.xz"
        if not packed.is_file():
            pytest.skip(f"{packed.name} is not in this copy of the repository")
        shutil.copy(packed, samples)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return samples


# -- the lessons ------------------------------------------------------------------------------------------


def test_the_lessons_are_numbered_from_one() -> None:
    assert [lesson.name[:3] for lesson in LESSONS] == [f"{number:02d}-" for number in range(1, len(LESSONS) + 1)]
    assert len(LESSONS) >= 4


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_nothing_that_ran_is_committed(lesson: Path) -> None:
    notebook = json.loads(lesson.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert [cell["id"] for cell in cells if cell["metadata"]] == []
    assert len({cell["id"] for cell in cells}) == len(cells)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_says_first_what_one_will_know(lesson: Path) -> None:
    title, _, text = "".join(json.loads(lesson.read_text(encoding="utf-8"))["cells"][0]["source"]).partition("\n\n")
    assert title.startswith("# ")
    assert text.startswith("At the end of this lesson you ")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_runs(lesson: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for needed in ("matplotlib", "ipykernel"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install '.[notebook]'")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    samples = layout(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(tmp_path / "notebooks" / lesson.name, as_version=4)
    nbformat.validate(notebook)
    place = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place).execute()

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    shown = [output.data for output in outputs if "data" in output]
    assert any("text/html" in data for data in shown)
    plots = sum("plots." in cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.outputs)
    assert sum("image/png" in data for data in shown) == plots
    assert {path.suffix for path in samples.iterdir()} <= {".xz", ".sqlite"}


def test_most_lessons_draw() -> None:
    assert sum("plots." in lesson.read_text(encoding="utf-8") for lesson in LESSONS) >= 3


# -- the figures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[notebook]'").use("agg")
    return analyze(layout(tmp_path_factory.mktemp("plots"), ("h200-layers",)) / "h200-layers.sqlite.xz")


@pytest.fixture
def drawing(analysis: Analysis):
    """The module under test, once it is known that it can draw."""
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
    steps = analysis["step_trace"].dropna(subset=["step"])
    figure = drawing.step_latency({"step_trace": repeated(steps, drawing.MOST_LINES + 1)})
    assert len(figure.axes[0].lines) == 2 * (drawing.MOST_LINES + 1) + 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["7 decodes", "GPU busy"]


def test_idle_causes_add_up_to_the_wall_time(analysis: Analysis, drawing) -> None:
    trace = analysis["stage_trace"].sort_values("start_ns")
    axes = drawing.idle_causes(analysis).axes[0]
    drawn = np.array([[bar.get_width() for bar in bars] for bars in axes.containers])
    columns = ["gpu_busy_ns", "wait_ns", *(f"idle_{cause}_ns" for cause in CAUSES)]
    trace["gpu_busy_ns"] -= trace["wait_ns"]
    np.testing.assert_allclose(drawn, trace[columns].to_numpy(float).T / MS)
    ends = [bar.get_x() + bar.get_width() for bar in axes.containers[-1]]
    np.testing.assert_allclose(ends, trace["wall_ns"].to_numpy(float) / MS)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["prefill 0", "decode 0"]


def test_every_cause_has_a_colour_of_its_own(drawing) -> None:
    assert len({drawing._BUSY, *(cause.colour for cause in CAUSES.values())}) == len(CAUSES) + 1


def test_many_stages_are_drawn_as_their_means(analysis: Analysis, drawing) -> None:
    trace = repeated(analysis["stage_trace"], drawing.MOST_BARS)
    axes = drawing.idle_causes({"stage_trace": trace}).axes[0]
    means = trace.groupby("stage", observed=True, sort=False)["gpu_busy_ns"].mean()
    assert widths(axes.figure)["GPU busy"] == pytest.approx(list(means / MS))
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"{stage}\nmean of 12" for stage in means.index]


def test_steps_are_drawn_over_their_context_with_outliers_apart(analysis: Analysis, drawing) -> None:
    steps = analysis["step_trace"].dropna(subset=["step"]).reset_index(drop=True)
    steps["steady"], steps["outlier"] = steps.index > 0, steps.index == 3
    steps["context_tokens"] = 1021 + 100 * steps.index
    whole = analysis["step_sum"].copy()
    drifts = {"duration_drift_ns_per_token": 500.0, "duration_drift_error_ns_per_token": 100.0,
              "gpu_busy_drift_ns_per_token": 500.0, "gpu_busy_drift_error_ns_per_token": 300.0}  # fmt: skip
    figure = drawing.step_drift({"step_trace": steps, "step_sum": whole.assign(**drifts)})
    host, gpu = figure.axes
    assert (host.get_title(loc="right"), gpu.get_title(loc="right")) == (
        "+500 ± 100 us per 1000 tokens",
        "no drift that can be told",
    )
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
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["outlier"]


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
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    top = list(dict.fromkeys(table.sort_values("share_pct", ascending=False)["family"]))
    assert labels == [*top[:3], f"{len(top) - 3} more"]
    for stage, lengths in widths(figure).items():
        shares = table[table["stage"] == stage].set_index("family")["share_pct"]
        assert lengths[:3] == pytest.approx([shares.get(family, 0.0) for family in top[:3]])
        assert sum(lengths) == pytest.approx(100.0)
    assert figure.axes[0].get_xlabel().endswith("(%)")


def test_a_report_without_stages_gets_a_sentence(analysis: Analysis, drawing, tmp_path: Path) -> None:
    needed = ("step_trace", "step_sum", "stage_trace", "stage_family_sum", "stage_api_sum")
    nothing = {name: analysis[name].head(0) for name in needed}
    for draw in (drawing.step_latency, drawing.step_drift, drawing.idle_causes, drawing.family_bars, drawing.host_time):
        figure = draw(nothing)
        assert (
            "in this report" in figure.axes[0].texts[0].get_text()
            or "of this report" in figure.axes[0].texts[0].get_text()
        )
        figure.savefig(tmp_path / f"{draw.__name__}.svg")


def test_pyplot_keeps_no_figure(analysis: Analysis, drawing) -> None:
    from matplotlib import pyplot as plt

    drawing.family_bars(analysis)
    assert plt.get_fignums() == []


def test_importing_plots_loads_no_matplotlib() -> None:
    import subprocess
    import sys

    program = "import sys, dsprof.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
