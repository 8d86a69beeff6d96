"""`dsprof capture` on the real nsys: a model of the true classes, a page drawn here, and what the folder holds then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dsprof
from dsprof.capture.record import RECORD, Session, converter, read_session
from dsprof.capture.session import images_of
from dsprof.model.costs import View, model_of
from dsprof.model.record import RequestInput, find_record
from nsys_stats import AGENT_LOST, PRIMARY, TRIES, require

pytest.importorskip("torch", reason="the model's libraries are an extra")
pytest.importorskip("transformers", reason="the model's libraries are an extra")
pytestmark = [pytest.mark.nsys, pytest.mark.timeout(300)]

TOKENS, REPEAT = 6, 2
SECRET = "hf_" + "Zq8Kd0Wv" * 4


def run(*arguments, cwd=None, env=None):
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dsprof", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        check=False,
    )


def capture(out, nsys, *arguments, env=None):
    """A capture into a folder of its own in `out`; tried again where the real nsys lost its agent."""
    for _ in range(TRIES):
        done = run("capture", "--out", out, "--nsys", nsys, *arguments, env=env)
        if AGENT_LOST not in done.stderr:
            break
        shutil.rmtree(out)
    return done


@pytest.fixture(scope="module")
def nsys():
    return require(PRIMARY).path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from dsprof.workloads.page import draw

    return draw(tmp_path_factory.mktemp("page") / "page one.png")


@pytest.fixture(scope="module")
def captured(nsys, page, tmp_path_factory):
    """One capture, with a secret in the environment, which several tests look at."""
    out = tmp_path_factory.mktemp("traces")
    options = ("--max-new-tokens", TOKENS, "--repeat", REPEAT)
    done = capture(out, nsys, page, *options, env={"HF_TOKEN": SECRET, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    (folder,) = out.iterdir()
    return folder, done


def test_the_folder_holds_report_export_tables_record_and_log(captured):
    folder, _ = captured
    assert {path.name for path in folder.iterdir()} == {
        "run.nsys-rep", "run.sqlite", "run.dsprof", "session.json", "workload.log", "job.json", "outcome.json",
    }  # fmt: skip
    assert sorted(path.stem for path in (folder / "run.dsprof").glob("*.parquet")) == sorted(dsprof.analyze(folder))


def test_each_request_is_a_prefill_and_a_decode_of_one_step_less_than_tokens(captured):
    analysis = dsprof.analyze(captured[0])
    stages = analysis["stage_trace"]
    assert stages["stage"].tolist() == ["prefill", "decode"] * REPEAT
    assert stages["request"].tolist() == [0, 0, 1, 1]
    assert stages["tokens"].tolist() == [1020, TOKENS - 1] * REPEAT
    ranges = analysis["range_trace"]
    steps = ranges[ranges["name"] == "decode.step"]
    assert steps["payload"].tolist() == list(range(1, TOKENS)) * REPEAT
    assert set(ranges["domain"]) == {"dsprof"}
    modules = ranges[ranges["name"].str.startswith("module:")]["name"]
    assert modules[modules == "module:lm_head"].size == REPEAT * TOKENS
    assert modules[modules == "module:model.vision_tower"].size == 2 * REPEAT  # the page, and its crops


def test_host_times_of_the_record_are_those_of_the_report(captured):
    """Two clocks around the same calls: the record's stage lies within a millisecond of the report's range."""
    record = read_session(captured[0])
    stages = dsprof.analyze(captured[0])["stage_trace"]
    seen = [stage for request in record.requests for stage in request.timing.stages]
    assert [stage.stage for stage in seen] == stages["stage"].tolist()
    for stage, duration in zip(seen, stages["duration_ns"], strict=True):
        assert stage.duration_ns == pytest.approx(duration, abs=5_000_000)


def test_the_summary_says_that_there_was_no_gpu_and_shows_no_zeros_for_it(captured):
    text = captured[1].stdout
    assert "The report holds no GPU operations: all times are host times." in text
    assert "GPU busy" not in text
    assert "kernels  " not in text


def test_the_record_round_trips_and_holds_what_ran(captured):
    record = read_session(captured[0])
    assert converter.structure(json.loads(json.dumps(converter.unstructure(record))), Session) == record
    assert {"dsprof", "nsys", "nvtx", "python", "torch", "transformers"} <= set(record.versions)
    assert (record.ending, record.exit_code, record.device, record.model) == ("finished", 0, "cpu", "tiny")
    assert (record.attention["text_config"], record.max_new_tokens, record.modules) == ("sdpa", TOKENS, "stages")
    assert [image.name for image in record.images] == ["page one.png"]
    assert [request.new_tokens for request in record.requests] == [TOKENS] * REPEAT
    assert record.withheld_variables == ("HF_TOKEN",)


def test_the_record_says_which_model_ran_and_what_it_was_given(captured):
    record, found = read_session(captured[0]), find_record(captured[0] / "run.sqlite")
    assert (record.dtype, record.model_config["model_type"]) == ("float32", "deepseek_ocr2")
    assert model_of(record.model_config, record.dtype).parameters == record.parameters
    assert [request.views for request in record.requests] == [[[1, 768, 768], [6, 768, 768]]] * REPEAT
    assert (found.source, found.config, found.dtype) == (RECORD, record.model_config, "float32")
    assert found.served(1) == RequestInput(1, (View(1, 768, 768), View(6, 768, 768)))


def test_a_record_from_before_models_were_recorded_is_read(captured, tmp_path):
    document = json.loads((captured[0] / RECORD).read_text())
    del document["dtype"], document["model_config"]
    for request in document["requests"]:
        del request["views"]
    (tmp_path / RECORD).write_text(json.dumps(document))
    record = read_session(tmp_path)
    assert (record.dtype, record.model_config, record.requests[0].views) == ("", {}, None)


def test_the_same_session_without_nsys_is_beside_it(nsys, page, tmp_path):
    """The same requests, tokens and texts, with no ranges; the summary and the record say what recording cost."""
    options = ("--baseline", "--max-new-tokens", 3, "--repeat", 2)
    done = capture(tmp_path / "out", nsys, page, *options, env={"HF_TOKEN": SECRET})
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    record, plain = read_session(folder), read_session(folder).baseline.plain
    job, outcome = (json.loads((folder / "baseline" / name).read_text()) for name in ("job.json", "outcome.json"))
    assert job == {**json.loads((folder / "job.json").read_text()), "ranges": False}
    assert [(one["new_tokens"], one["text"]) for one in outcome["requests"]] == [
        (one.new_tokens, one.text) for one in record.requests
    ]
    assert plain.problem == ""
    assert [one.request for one in plain.requests] == [0, 1]
    for theirs, mine in zip(plain.requests, outcome["requests"], strict=True):
        assert theirs.steps_ns == tuple(mine["timing"]["steps_ns"])
        assert theirs.stages_ns == {stage["stage"]: stage["duration_ns"] for stage in mine["timing"]["stages"]}
    assert min(plain.program_ns, plain.recorded_program_ns) > max(sum(one.stages_ns.values()) for one in plain.requests)
    costs = dsprof.analyze(folder).summary().costs
    assert [(cost.stage, cost.of_steps, cost.compared) for cost in costs] == [
        ("prefill", False, 2), ("decode", False, 2), ("decode", True, 4),
    ]  # fmt: skip
    assert "What recording cost (medians on the host)" in done.stdout
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".nsys-rep":
            assert SECRET.encode() not in path.read_bytes(), path


def test_a_secret_of_the_environment_is_in_no_file_but_the_report(captured):
    """nsys itself writes the environment of every process that it may look at, ours too, into the .nsys-rep."""
    for path in captured[0].rglob("*"):
        if path.is_file() and path.suffix != ".nsys-rep":
            assert SECRET.encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize(("options", "passed_on"), [((), False), (("--env", "HF_TOKEN"), True)])
def test_a_secret_reaches_the_program_only_when_it_is_named(options, passed_on, nsys, tmp_path):
    program = "import os; print('SEEN', 'HF_TOKEN' in os.environ); from dsprof.workloads.toy import serve; serve(0, 2)"
    done = capture(tmp_path, nsys, *options, "--", sys.executable, "-c", program, env={"HF_TOKEN": SECRET})
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert f"SEEN {passed_on}" in (folder / "workload.log").read_text()
    assert read_session(folder).withheld_variables == (() if passed_on else ("HF_TOKEN",))


def test_a_command_is_captured_the_same_way(nsys, tmp_path):
    done = capture(tmp_path, nsys, "--", sys.executable, "-m", "dsprof.workloads.toy", 1, 3)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert dsprof.analyze(folder)["stage_trace"]["tokens"].tolist() == [64, 2]
    assert read_session(folder).command[1:3] == ("-m", "dsprof.workloads.toy")


def test_a_command_that_fails_keeps_its_exit_code_and_its_ranges(nsys, tmp_path):
    program = "from dsprof.workloads.toy import serve; serve(0, 2); print('said', flush=True); raise SystemExit(3)"
    done = capture(tmp_path, nsys, "--", sys.executable, "-c", program)
    assert done.returncode == 3
    assert "The program ended with exit code 3." in done.stderr
    (folder,) = tmp_path.iterdir()
    assert read_session(folder).ending == "failed"
    assert "said" in (folder / "workload.log").read_text()
    assert len(dsprof.analyze(folder)["stage_trace"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("nope.png",), 36, "There is no image"),
        (("{page}", "--model", "nope"), 37, "There is no model folder nope."),
        (("{empty}",), 36, "holds no image"),
        ((), 2, "name images to read, or a command"),
        (("{page}", "--", "true"), 2, "not both"),
        (("{page}", "--nsys", "nope"), 10, "--nsys names nope"),
    ],
)
def test_what_cannot_work_is_told_before_anything_starts(arguments, code, sentence, page, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"page": page, "empty": tmp_path / "empty"}
    done = run("capture", "--out", tmp_path / "out", *(one.format(**places) for one in arguments), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "code", "sentence"),
    [
        (lambda page, folder: ([folder / "text.png"], []), 36, "cannot be read as an image"),
        (lambda page, folder: ([page], ["--model", folder]), 37, "is no model folder"),
        (lambda page, folder: ([page], ["--flash-attn", "--model", folder / "checkpoint"]), 38, "flash-attention"),
    ],
)
def test_what_fails_in_the_session_is_told_as_what_it_was(make, code, sentence, nsys, page, tmp_path):
    (tmp_path / "text.png").write_text("no image\n")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    images, options = make(page, tmp_path)
    done = capture(tmp_path / "out", nsys, *images, *options)
    assert done.returncode == code, done.stderr
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    assert (read_session(folder).ending, read_session(folder).exit_code) == ("failed", code)
    assert f"The last lines of {folder / 'workload.log'}:" in done.stderr


def test_images_of_a_folder_are_taken_by_name_and_suffix(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in images_of([tmp_path, Path("one.gif")])] == ["a.JPG", "b.png", "one.gif"]
