"""The steps of serving engines, by the names of their ranges; the reports are made, see `engine_reports`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsprof
import engine_reports as made
from dsprof.analysis.analyze import Analysis
from dsprof.arrays import NULL
from dsprof.errors import MemoryTooSmall, UnknownEngine
from dsprof.nsys.parts import ReportInParts
from dsprof.rules.engines import all_engines, engine_named
from dsprof.rules.engines._engine import Step
from dsprof.rules.rules import Rules
from dsprof.show.plain import summary_json, summary_markdown
from dsprof.words import MODES as MODES_OF_STEPS
from engine_reports import LIFE, Scheduled, run
from test_parts import assert_same, written
from test_properties import MODES, few, recordings
from trace_builder import START_END, VERSIONS, TraceBuilder

COUNTS = ("context_requests", "context_tokens", "generation_requests", "generation_tokens")


def analyzed(report: TraceBuilder, tmp_path, **options):
    return dsprof.analyze(report.write(tmp_path / "made.sqlite"), reuse=False, **options)


def steps_of(analysis):
    steps = analysis["step_trace"]
    return steps[steps["engine"].notna()]


def numbers(column: pd.Series) -> list[int | None]:
    return [None if value is pd.NA else int(value) for value in column.tolist()]


def sums(analysis) -> dict[str, int | None]:
    whole = analysis["engine_sum"]
    whole = whole[whole["mode"].isna()]
    assert len(whole) == 1
    return {count: numbers(whole[count])[0] for count in COUNTS}


# -- names ---------------------------------------------------------------------------------------------------


def read(text: str) -> tuple[str, str, Step] | None:
    for engine in all_engines().values():
        for form in engine.forms:
            if (step := form.read(text)) is not None:
                return engine.name, form.name, step
    return None


NAMES = {
    "execute_context_1(64)_generation_7(7)": ("vllm", "counts", "mixed", 1, 64, 7, 7),
    "execute_context_0(0)_generation_0(0)": ("vllm", "counts", "empty", 0, 0, 0, 0),
    "execute_12_context_1(sq5sk5sqsq25sqsk25)_generation_7(sq7sk700sqsq7sqsk700)":
        ("vllm", "detailed", "mixed", 1, 5, 7, 7),
    "execute_new_3_cached_0": ("vllm", "new and cached", "prefill", 3, NULL, 0, NULL),
    "execute_new_0_cached_3": ("vllm", "new and cached", "decode?", NULL, NULL, NULL, NULL),
    "execute_new_1_cached_3": ("vllm", "new and cached", "mixed?", NULL, NULL, NULL, NULL),
    "mixed_batch": ("vllm", "batches", "mixed", NULL, NULL, NULL, NULL),
    "gpu_model_runner: preprocess": ("vllm", "scopes", "unknown", NULL, NULL, NULL, NULL),
    "[Executor] _forward_step 9: 2 ctx reqs, 31 ctx tokens, 4 gen reqs":
        ("tensorrt-llm", "forward step", "mixed", 2, 31, 4, NULL),
    "[Executor] _forward_step 9: 0 ctx reqs, 4 gen reqs": ("tensorrt-llm", "forward step", "decode", 0, 0, 4, NULL),
    "[Executor] _forward_step 9: 2 ctx reqs, 0 gen reqs": ("tensorrt-llm", "forward step", "prefill", 2, NULL, 0, 0),
    "Prefill": ("megatron-core", "schedule", "prefill?", NULL, NULL, NULL, NULL),
    "Decode": ("megatron-core", "schedule", "decode", NULL, NULL, NULL, NULL),
    "AsyncOverlap": ("megatron-core", "schedule", "unknown", NULL, NULL, NULL, NULL),
    "scheduler.run_batch": ("sglang", "run_batch", "unknown", NULL, NULL, NULL, NULL),
    "step[DECODE bs=37]": ("sglang", "step labels", "decode", 0, 0, 37, 37),
    "step[EXTEND bs=2 toks=300]": ("sglang", "step labels", "prefill", 2, 300, 0, 0),
    "step[EXTEND bs=2 toks=300 c_sq=300 c_sk=900], seq = 12": ("sglang", "step labels", "prefill", 2, 300, 0, 0),
    "step[VERIFY bs=3]": ("sglang", "step labels", "decode", 0, 0, 3, NULL),
    "step[MIXED bs=3 c=1 g=2]": ("sglang", "step labels", "mixed", NULL, NULL, NULL, NULL),
    "step[DRAFT bs=3]": ("sglang", "step labels", "unknown", NULL, NULL, NULL, NULL),
    "step[IDLE bs=0]": ("sglang", "step labels", "empty", 0, 0, 0, 0),
    "XlaModule:#prefix=a/b,hlo_module=jit_prefill_fn,program_id=31#": ("xla", "modules", "prefill?", *[NULL] * 4),
    "XlaModule:#hlo_module=jit_generate#": ("xla", "modules", "decode?", *[NULL] * 4),
    "XlaModule:#hlo_module=jit_train.1-2,program_id=3#": ("xla", "modules", "unknown", *[NULL] * 4),
}  # fmt: skip


@pytest.mark.parametrize("text", NAMES)
def test_a_name_says_what_its_engine_means_by_it(text):
    engine, form, step = read(text)
    assert (engine, form, step.mode, *step[1:5]) == NAMES[text]


def test_a_detailed_name_has_the_lengths_and_an_executors_name_its_iteration():
    text = "execute_12_context_1(sq5sk50sqsq25sqsk25)_generation_7(sq7sk700sqsq7sqsk700)"
    assert read(text)[2][5:7] == (50, 700)
    assert read("[Executor] _forward_step 41: 0 ctx reqs, 4 gen reqs")[2].iteration == 41


STRANGE = [
    "execute_context_1(64)_generation_7(7) ", " execute_context_1(64)_generation_7(7)",
    "my execute_context_1(64)_generation_7(7)", "execute_context_1(64)_generation_7(7)\n", "execute_context_-1(6)_g",
    "execute_context_1(64)_generation_7", "execute_context_1٣(64)_generation_7(7)", "prefill_batch_1", "Prefill ",
    "scheduler.run_batch.1", "scheduler.run_batches", "step[decode bs=3]", "XlaModule:#hlo_module=#", "XlaModule:jit_f",
    "[Executor] _forward_step: 1 ctx reqs, 2 gen reqs", "gpu_model_runner: forward", "forward_step", "",
    "prefill", "🤗",
]  # fmt: skip


@pytest.mark.parametrize("text", [*STRANGE, *(f"{name[:-1]}{'9' * 10**6}{name[-1]}" for name in NAMES)],
                         ids=[*range(len(STRANGE)), *(f"a megabyte of {at}" for at in range(len(NAMES)))])  # fmt: skip
def test_another_name_says_nothing(text):
    assert read(text) is None


@given(st.text(alphabet="execut_ncoqsk()0123456789", max_size=400), st.sampled_from(sorted(NAMES)))
def test_no_name_breaks_a_form(text, name):
    found = [read(name[: len(name) // 2] + text), read(text + name), read(name + text if text else name)]
    for _, _, step in filter(None, found):
        assert step.mode.removesuffix("?") in MODES_OF_STEPS
        assert all(count == NULL or 0 <= count < 10**12 for count in step[1:])


def test_patterns_repeat_nothing_inside_of_what_is_repeated():
    """What Python's engine can go back over is one repetition at a time, and none is without a bound but the last."""
    from re import _parser  # type: ignore[attr-defined]

    def repeats(parsed, depth=0):
        for what, value in parsed:
            name = str(what)
            inner = depth + (name in ("MAX_REPEAT", "MIN_REPEAT") and value[1] > 1)
            assert inner <= 1
            for part in value if isinstance(value, tuple | list) else ():
                for sub in part if isinstance(part, list) else [part]:
                    if isinstance(sub, _parser.SubPattern):
                        repeats(sub, inner)

    for engine in all_engines().values():
        for form in engine.forms:
            repeats(_parser.parse(form.pattern.pattern))


# -- what a report of an engine says -------------------------------------------------------------------------

#: By name: what is known of requests and tokens, and of the modes.
FORMS = {
    made.vllm: COUNTS, made.vllm_detailed: COUNTS, made.vllm_old: (), made.tensorrt_llm: COUNTS[:3],
    made.tensorrt_llm_old: ("context_requests", "generation_requests"), made.megatron: (), made.sglang: (),
    made.sglang_label: (), made.xla: (),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_steps_requests_and_tokens_are_those_that_the_engine_scheduled(form, tmp_path):
    analysis = analyzed(run(name=form), tmp_path)
    steps = steps_of(analysis)
    assert len(steps) == len(LIFE)
    scheduled = {"context_requests": "context", "context_tokens": "prompt", "generation_requests": "generating",
                 "generation_tokens": "tokens"}  # fmt: skip
    for count in FORMS[form]:
        own = [getattr(step, scheduled[count]) for step in LIFE]
        column = "context_tokens_in_step" if count == "context_tokens" else count
        assert numbers(steps[column]) == own
        assert sums(analysis)[count] == sum(own)
    if "generation_requests" in FORMS[form]:
        assert steps["mode"].tolist() == [step.mode for step in LIFE]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_all_that_a_step_launches_until_the_next_one_is_its_own(form, tmp_path):
    analysis = analyzed(run(name=form), tmp_path)
    steps, last = steps_of(analysis), len(LIFE) - 1
    assert steps["kernels"].tolist() == [made.INSIDE + made.AFTER] * last + [made.INSIDE]
    assert steps["after_kernels"].tolist() == [made.AFTER] * last + [0]
    assert steps["after_kernel_total_ns"].tolist() == [made.AFTER * made.AFTER_NS] * last + [0]
    assert steps["in_range_ns"].tolist() == [made.RANGE] * len(LIFE)
    assert numbers(steps["interval_ns"]) == [made.PERIOD] * last + [None]
    spent = steps["in_range_ns"] + steps["after_range_ns"]
    assert (spent[:-1] == steps["duration_ns"][:-1]).all()
    assert (steps["wall_ns"] + steps["between_ns"])[:-1].tolist() == [made.PERIOD] * last
    parts = steps[[column for column in steps if column.startswith("idle_")]].sum(axis=1)
    assert (parts + steps["gpu_busy_ns"] == steps["wall_ns"]).all()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_table_holds_all_kernels(form, tmp_path):
    analysis = analyzed(run(name=form), tmp_path)
    whole = (len(analysis["kern_trace"]), analysis["kern_trace"]["duration_ns"].sum())
    summed = [(table, "instances", "total_ns") for table in ("kern_sum", "stage_kern_sum", "stage_family_sum")]
    for table, count, total in (*summed, ("stage_sum", "kernels_total", "kernel_total_ns")):
        assert (analysis[table][count].sum(), analysis[table][total].sum()) == whole
    by_mode = analysis["engine_sum"]
    for column in ("steps", "kernels", "kernel_total_ns", "gpu_busy_ns", "after_kernels", "between_ns", "in_range_ns"):
        assert by_mode[by_mode["mode"].isna()][column].sum() == by_mode[by_mode["mode"].notna()][column].sum()
    assert not [found for found in analysis.findings if found.strict_exit]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("domain", "registered"), [("", False), ("", True), ("TensorRT-LLM", True), (7, True)])
def test_domains_and_kinds_of_text_do_not_matter(version, domain, registered, tmp_path):
    report = run(report=TraceBuilder(version), domain=domain, registered=registered)
    assert [one.engine for one in analyzed(report, tmp_path).summary().workers] == ["vLLM"]


def test_a_prompt_in_chunks_is_a_context_of_each_step_that_has_one(tmp_path):
    life = [Scheduled(1, 512), Scheduled(1, 512, 4, 4), Scheduled(1, 77, 4, 4), Scheduled(0, 0, 5, 5)]
    analysis = analyzed(run(life), tmp_path)
    assert steps_of(analysis)["mode"].tolist() == ["prefill", "mixed", "mixed", "decode"]
    assert sums(analysis) == dict(zip(COUNTS, (3, 1101, 13, 13), strict=True))


def test_drafts_are_told_from_requests_that_are_computed_again(tmp_path):
    codes = {}
    drafts, again = [Scheduled(0, 0, 4, 16)] * 9, [Scheduled(0, 0, 4, 4)] * 20 + [Scheduled(0, 0, 4, 903)]
    for name, life in (("drafts", drafts), ("again", again), ("neither", LIFE)):
        found = analyzed(run(life), tmp_path).findings
        codes[name] = {one.code: str(one) for one in found if one.code in ("drafts", "computed-again")}
    assert [set(one) for one in codes.values()] == [{"drafts"}, {"computed-again"}, set()]
    assert "4.0 in the mean" in codes["drafts"]["drafts"]
    assert "1 of 21 steps" in codes["again"]["computed-again"]


def test_output_is_one_token_a_request_and_each_takes_the_time_to_the_next_step(tmp_path):
    analysis = analyzed(run([Scheduled(0, 0, 8, 8)] * 4, pause_after={1: 100}), tmp_path)
    whole = analysis["engine_sum"].iloc[0]
    span = 3 * made.PERIOD + 100 + made.RANGE
    assert (whole["span_ns"], whole["active_ns"], whole["pauses"]) == (span, span, 0)
    assert whole["output_tokens_per_s"] == pytest.approx(32e9 / span)
    assert (whole["token_interval_p50_ns"], whole["token_interval_p99_ns"]) == (made.PERIOD, made.PERIOD + 100)


def test_a_wait_for_requests_is_no_step(tmp_path):
    busy, idle = (analyzed(run(pause_after=waits), tmp_path) for waits in ({}, {3: 10**9, 7: 10**8}))
    steps = steps_of(idle)
    assert np.flatnonzero(steps["pause"]).tolist() == [3, 7]
    for column in ("duration_ns", "wall_ns", "gpu_busy_ns", "idle_host_ns"):
        assert steps[column].tolist() == steps_of(busy)[column].tolist()
    for table in ("step_sum", "stage_sum"):
        pd.testing.assert_frame_equal(busy[table], idle[table])
    whole = idle["engine_sum"].iloc[0]
    assert (whole["pauses"], whole["pause_ns"]) == (2, 11 * 10**8 + 2 * 65)
    assert whole["output_tokens_per_s"] == pytest.approx(busy["engine_sum"].iloc[0]["output_tokens_per_s"], rel=0.1)


def test_a_window_cut_in_the_middle_of_a_step_gives_no_short_one(tmp_path):
    """What ran before the first range is in no stage, and the range that the end of the capture cut is left out."""
    report = run(LIFE, report=TraceBuilder(duration=10**6))
    report.kernel("gemm", at=(500, 600), call=(400, 410))
    begin = 1000 + made.PERIOD * len(LIFE)
    report.range(made.vllm(Scheduled(0, 0, 3, 3)), begin, None).kernel("gemm", at=(begin + 9, begin + 19),
                                                                       call=(begin + 1, begin + 3))  # fmt: skip
    analysis = analyzed(report, tmp_path)
    decode = analysis["step_sum"]
    decode = decode[(decode["stage"] == "decode") & decode["batch_max"].isna()].iloc[0]
    modes = [step.mode for step in LIFE]
    assert (decode["steps"], decode["cut_steps"]) == (modes.count("decode"), 1)
    assert decode["duration_max_ns"] == steps_of(analysis)["duration_ns"].iloc[0]
    none = analysis["stage_kern_sum"]
    assert none[none["stage"] == "(no stage)"]["instances"].sum() == 1


def test_steps_by_size_of_batch_are_those_of_their_mode(tmp_path):
    life = [Scheduled(0, 0, requests, requests) for requests in (1, 2, 3, 4, 5, 8, 9, 256, 256)]
    rows = analyzed(run(life), tmp_path)["step_sum"]
    sizes = rows[rows["batch_max"].notna()]
    found = list(zip(*(numbers(sizes[column]) for column in ("batch_min", "batch_max", "steps")), strict=True))
    assert found == [(1, 1, 1), (2, 2, 1), (3, 4, 2), (5, 8, 2), (9, 16, 1), (129, 256, 1)]
    assert sizes["steps"].sum() == rows[rows["batch_max"].isna()]["steps"].sum() == len(life) - 1


# -- several threads, several engines ------------------------------------------------------------------------


def test_workers_with_the_same_steps_are_told_once(tmp_path):
    report = TraceBuilder()
    for rank, life in enumerate((LIFE, LIFE, LIFE[:7])):
        run(life, report=report, pid=100 + rank, begin=1000 + 7 * rank)
    analysis = analyzed(report, tmp_path)
    assert [(one.pid, one.alike) for one in analysis.summary().workers] == [(100, 2), (101, 0), (102, 1)]
    text = summary_markdown(analysis.summary())
    assert "pid 100 and 1 alike" in text
    assert analysis["engine_sum"]["mode"].isna().sum() == 3
    assert steps_of(analysis).groupby("pid").size().tolist() == [len(LIFE), len(LIFE), 7]


def test_each_thread_has_the_engine_that_it_has_most_steps_of(tmp_path):
    report = run(name=made.tensorrt_llm, pid=100, tid=101)
    run([LIFE[0]], name=made.megatron, report=report, pid=100, tid=101, begin=100_000)
    run(name=made.sglang, report=report, pid=200)
    found = [(one.engine, one.pid) for one in analyzed(report, tmp_path).summary().workers]
    assert found == [("TensorRT-LLM", 100), ("SGLang", 200)]


def test_plain_ranges_stay_what_they_are_beside_an_engine(tmp_path):
    """Two threads: one with requests of generate(), the other of an engine; each has its own."""
    report = run(pid=100)
    report.range("prefill", 1000, 1100, pid=300, payload=5).range("decode", 1100, 1400, pid=300)
    for number in range(3):
        report.range("decode.step", 1100 + 100 * number, 1190 + 100 * number, pid=300, payload=number + 1)
        report.kernel("gemv", at=(1120 + 100 * number, 1130 + 100 * number), call=(1105 + 100 * number, 1108), pid=300)
    analysis = analyzed(report, tmp_path)
    alone = analyzed(report, tmp_path, engine="none")
    requests = analysis["request_trace"]
    pd.testing.assert_frame_equal(requests, alone["request_trace"])
    assert len(requests) == 1 and requests["new_tokens"].tolist() == [4]
    assert len(steps_of(analysis)) == len(LIFE) and not len(steps_of(alone))
    assert {line.stage for line in alone.summary().stages if line.instances} == {"prefill", "decode"}


def test_where_plain_ranges_are_more_the_engine_is_left_aside(tmp_path):
    report = TraceBuilder()
    for number in range(20):
        report.range("decode", 1000 + 100 * number, 1090 + 100 * number)
    run(LIFE[:3], report=report, begin=10_000)
    assert not analyzed(report, tmp_path).summary().workers
    assert len(analyzed(report, tmp_path, engine="vLLM").summary().workers) == 1


def test_a_stage_of_ones_own_comes_before_an_engines_step(tmp_path):
    analysis = analyzed(run(), tmp_path, stages={"mine": "^execute_context_0"})
    assert (analysis["stage_trace"]["stage"] == "mine").sum() == sum(not step.context for step in LIFE)
    assert len(steps_of(analysis)) == sum(step.context > 0 for step in LIFE)
    inner = run()
    inner.range("sample", 1000 + made.RANGE, 1000 + made.PERIOD - 1)
    analysis = analyzed(inner, tmp_path, stages={"sampling": "^sample$"})
    kernels = analysis["stage_kern_sum"].set_index("stage")
    assert kernels.loc["sampling", "instances"] == made.AFTER


def test_an_engine_that_is_not_there_is_told_with_its_switch(tmp_path):
    (found,) = [one for one in analyzed(run(), tmp_path, engine="sglang").findings if one.code == "no-engine"]
    assert "SGLANG_ENABLE_NVTX_SCHEDULER=1" in str(found)
    with pytest.raises(UnknownEngine, match=r"no engine vlm") as raised:
        engine_named("vlm")
    assert "Did you mean vllm?" in raised.value.hint


def test_of_an_engine_that_nobody_knows_the_busiest_ranges_can_be_pasted(tmp_path):
    report = run(name=lambda step, number: f"MyEngine::step {number % 2}")
    analysis = analyzed(report, tmp_path)
    assert not analysis.summary().workers
    assert [line.name for line in analysis.summary().ranges] == ["MyEngine::step 0", "MyEngine::step 1"]
    text = summary_markdown(analysis.summary())
    assert "--stage" in text
    pasted = dsprof.analyze(analysis.path, stages={"mine": r"^MyEngine::step\ 0$"}, reuse=False)
    assert (pasted["stage_trace"]["stage"] == "mine").sum() == (len(LIFE) + 1) // 2


# -- shapes of ranges ----------------------------------------------------------------------------------------


def test_of_steps_inside_each_other_the_outermost_counts_and_of_modules_the_innermost(tmp_path):
    report = TraceBuilder().range(made.vllm(LIFE[1]), 1000, 1200).range(made.vllm(LIFE[3]), 1010, 1100)
    assert steps_of(analyzed(report, tmp_path))["mode"].tolist() == ["mixed"]
    report = TraceBuilder().range(made.xla(LIFE[0]), 1000, 1200).range(made.xla(LIFE[3]), 1010, 1100)
    assert steps_of(analyzed(report, tmp_path))["mode"].tolist() == ["decode?"]


def test_a_range_that_another_thread_ends_is_no_step_and_one_of_its_own_is(tmp_path):
    name = made.vllm(LIFE[3])
    report = TraceBuilder().range(name, 1000, 1100, kind=START_END, end_tid=7)
    report.range(name, 2000, 2100, kind=START_END, end_tid=100)
    assert len(steps_of(analyzed(report, tmp_path))) == 1


@st.composite
def schedules(draw):
    """Steps of random modes, lengths and distances on a few threads, with calls anywhere."""
    report, truth = TraceBuilder(), []
    for tid in range(100, 100 + draw(st.integers(1, 2))):
        at = 1000
        for _ in range(draw(st.integers(1, 6))):
            length, gap = draw(st.integers(1, 40)), draw(st.integers(0, 40))
            step = Scheduled(*(draw(st.integers(0, 2)) for _ in range(4)))
            report.range(made.vllm(step), at, at + length, tid=tid)
            truth.append((tid, at, at + length, step))
            at += length + gap
        for number in range(draw(st.integers(0, 12))):
            call, begun = draw(st.integers(900, at + 20)), 10_000 + 100 * number
            report.kernel("k", at=(begun, begun + draw(st.integers(1, 30))), call=(call, call + 1), tid=tid)
    return report, truth


@settings(deadline=None, max_examples=60)
@given(schedules())
def test_random_schedules_are_attributed_as_one_would_by_hand(tmp_path_factory, found):
    report, truth = found
    path = report.write(tmp_path_factory.getbasetemp() / "random.sqlite")
    analysis = dsprof.analyze(path, reuse=False)
    calls = analysis["kern_trace"]
    steps = steps_of(analysis)
    assert len(steps) == len(truth)
    for tid, begin, end, step in truth:
        after = [one[1] for one in truth if one[0] == tid and one[1] > begin]
        reach = min(after, default=end)
        row = steps[(steps["tid"] == tid) & (steps["start_ns"] == begin)].iloc[0]
        assert row["mode"] == step.mode
        assert begin + row["in_range_ns"] == end <= max(row["end_ns"], end) <= reach or not after
        mine = (calls["tid"] == tid) & (calls["api_start_ns"] >= begin) & (calls["api_start_ns"] < reach)
        assert row["kernels"] == mine.sum()
    assert steps["kernels"].sum() + analysis["stage_sum"].iloc[-1]["kernels_total"] == len(analysis["kern_trace"])


@pytest.mark.parametrize("parts", [2, 5, 17])
@pytest.mark.parametrize("form", [made.vllm_detailed, made.tensorrt_llm, made.sglang])
def test_a_report_in_parts_says_the_same(form, parts, tmp_path):
    report = TraceBuilder()
    for rank in range(2):
        run(LIFE, form, report, pid=100 + rank, begin=1000 + 7 * rank, pause_after={3: 50_000, 6: 777})
    path = report.write(tmp_path / "made.sqlite")
    whole = Analysis.of(ReportInParts(path, 1), None, path)
    assert_same(whole, Analysis.of(ReportInParts(path, parts), None, path))


# -- what is shown -------------------------------------------------------------------------------------------


def test_the_first_screen_says_what_the_engine_did(tmp_path):
    summary = analyzed(run(LIFE * 3), tmp_path).summary()
    text = summary_markdown(summary)
    assert "vLLM (counts) on 1 thread; --engine none leaves it aside" in text
    for words in ("decode", "mixed", "prefill", "empty", "Throughput", "TPOT p50", "no TTFT", "Requests in a step"):
        assert words in text
    assert not summary.instances and len(summary.engines) == 5
    assert '"engines"' in "".join(summary_json(summary))
    assert "mixed steps have no single limit" in text and "is mixed" not in text


def test_steps_are_drawn_by_mode_and_batches_over_time(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[notebook]'").use("agg")
    from dsprof import plots

    analysis = analyzed(run(LIFE * 2, pause_after={4: 10**7}), tmp_path)
    axes = plots.engine_steps(analysis).axes[0]
    drawn = {line.get_label(): line.get_xdata().tolist() for line in axes.lines}
    whole = (LIFE * 2)[:-1]
    for mode in ("prefill", "decode", "mixed"):
        own = [step.prompt + step.tokens for at, step in enumerate(whole) if step.mode == mode and at != 4]
        assert drawn[mode] == own
    assert set(drawn) == {"prefill", "decode", "mixed"}
    batch = plots.engine_batch(analysis)
    assert [text.get_text() for text in batch.legends[0].get_texts()] == ["generate", "prefill"]
    plain = analyzed(TraceBuilder().range("prefill", 0, 9).kernel("k", at=(3, 5), call=(1, 2)), tmp_path)
    for draw in (plots.engine_steps, plots.engine_batch):
        assert "no step of an engine" in draw(plain).get_suptitle()


#: What ranges of random reports are called instead of their own names.
RENAMED = {
    "prefill": made.vllm(Scheduled(1, 9)), "decode": made.vllm(Scheduled(0, 0, 3, 3)),
    "decode.step": made.vllm(Scheduled(2, 30, 5, 5)), "layer": made.tensorrt_llm(Scheduled(0, 0, 2, 2), 4),
}  # fmt: skip


@pytest.mark.parametrize("threads", MODES)
def test_random_reports_of_engines_are_the_same_in_parts_and_add_up(threads, tmp_path):
    @few
    @given(recordings(), st.integers(2, 9))
    def check(rec, parts):
        renamed = [replace(one, name=RENAMED.get(one.name, one.name)) for one in rec.ranges]
        path = written(replace(rec, ranges=renamed), tmp_path / "random.sqlite")
        rules = Rules(threads=threads)
        whole = Analysis.of(ReportInParts(path, 1), rules, path)
        assert_same(whole, Analysis.of(ReportInParts(path, parts), rules, path))
        for table in ("stage_trace", "step_trace"):
            rows = whole[table]
            rows = rows[rows["wall_ns"].notna()]
            idle = rows[[column for column in rows if column.startswith("idle_")]]
            assert (idle >= 0).all(axis=None)
            assert (idle.sum(axis=1) + rows["gpu_busy_ns"] == rows["wall_ns"]).all()
        steps = steps_of(whole)
        followed = steps[steps["between_ns"].notna()]
        assert (followed["in_range_ns"] + followed["after_range_ns"] == followed["duration_ns"]).all()
        assert (steps[["in_range_ns", "after_kernels"]] >= 0).all(axis=None)
        assert not [found for found in whole.findings if found.code == "unreconciled"]

    check()


def test_transformers_is_told_from_vllm_whose_names_it_bears(tmp_path):
    analysis = analyzed(run(domain="dsprof"), tmp_path)
    assert set(steps_of(analysis)["engine"]) == {"transformers"}
    assert analysis.summary().workers[0].engine == "transformers"


def test_steps_of_a_scheduler_that_says_nothing_are_guessed_by_their_graphs(tmp_path):
    """A decode launches one graph, a prefill none, one in pieces as many as layers; without any, nobody can say."""
    report = TraceBuilder()
    for number, graphs in enumerate((0, 1, 1, 30, 3)):
        begin = 1000 + 1000 * number
        report.range("scheduler.run_batch", begin, begin + 900)
        for one in range(graphs):
            report.graph(
                ("gemv", begin + 20 * one + 400, begin + 20 * one + 410), call=(begin + 10 + one, begin + 11 + one)
            )
        if not graphs:
            report.kernel("gemm", at=(begin + 400, begin + 600), call=(begin + 10, begin + 20))
    path = report.write(tmp_path / "made.sqlite")
    guessed = Analysis.of(ReportInParts(path, 1), None, path)
    assert steps_of(guessed)["mode"].tolist() == ["prefill?", "decode?", "decode?", "prefill?", "decode?"]
    assert_same(guessed, Analysis.of(ReportInParts(path, 3), None, path))
    assert steps_of(dsprof.analyze(path, reuse=False))["mode"].tolist() == steps_of(guessed)["mode"].tolist()
    assert [found.code for found in guessed.findings].count("modes-not-told") == 1
    assert set(steps_of(analyzed(run(name=made.sglang), tmp_path))["mode"]) == {"unknown"}


def test_steps_that_a_selected_window_cuts_are_none(tmp_path):
    path = run().write(tmp_path / "made.sqlite")
    begin, end = 1000 + made.PERIOD + made.RANGE // 2, 1000 + 6 * made.PERIOD + made.RANGE // 2
    steps = steps_of(dsprof.analyze(path, window=f"{begin}ns..{end}ns", reuse=False))
    whole = steps_of(dsprof.analyze(path, reuse=False)).iloc[2:6]
    for column in ("mode", "kernels", "duration_ns", "interval_ns", "generation_tokens"):
        assert steps[column].tolist() == whole[column].tolist()


def test_what_the_thread_was_in_between_steps_is_named(tmp_path):
    report = run(LIFE, pause_after={5: 10**8})
    for number in range(len(LIFE)):
        begin = 1000 + made.PERIOD * number + (10**8 if number > 5 else 0) + made.RANGE
        report.range("schedule", begin + 50, begin + 90).range("inner", begin + 60, begin + 70)
        report.range("in the step", begin - 50, begin - 40).range("other thread", begin + 50, begin + 90, tid=7)
    (worker,) = analyzed(report, tmp_path).summary().workers
    counted = len(LIFE) - 2  # without the last step, and the one before the pause
    assert [(one.name, one.instances, one.total_ns) for one in worker.between] == [("schedule", counted, 40 * counted)]
    assert worker.between[0].share_pct == pytest.approx(100 * 40 / (made.PERIOD - made.RANGE))


def test_steps_that_do_not_fit_into_memory_are_told_before_the_work(tmp_path, monkeypatch):
    from dsprof.analysis import analyze as analyzing

    path = run(LIFE * 3).write(tmp_path / "made.sqlite")
    monkeypatch.setattr(analyzing, "_BYTES_PER_STAGE", 100_000_000)
    with pytest.raises(MemoryTooSmall, match=r"33 stages and 33 steps, and cannot be analyzed in 2\.00 GB") as raised:
        dsprof.analyze(path, memory="2GB")
    assert "with --memory" in raised.value.hint
    assert len(steps_of(dsprof.analyze(path, memory="20GB"))) == 33


@pytest.mark.parametrize("names", [("Prefill", "Decode"), ("prefill_batch", "decode_batch")])
def test_words_that_any_program_may_use_are_no_engines_by_themselves(names, tmp_path):
    report = TraceBuilder().range(names[0], 1000, 1100).range(names[1], 1100, 1400)
    report.kernel("gemm", at=(1050, 1060), call=(1010, 1020)).kernel("gemv", at=(1150, 1160), call=(1110, 1120))
    analysis = analyzed(report, tmp_path)
    assert not analysis.summary().workers
    assert {line.name for line in analysis.summary().ranges} == set(names)
    engine = "megatron-core" if names[0] == "Prefill" else "vllm"
    assert len(steps_of(analyzed(report, tmp_path, engine=engine))) == 2
