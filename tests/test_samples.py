"""The samples that `traces/record` made on an H200 say what was asked of them, and nothing of the machine."""

from __future__ import annotations

import json
import lzma
import re
from pathlib import Path

import pytest

import dsprof
from dsprof.ground.environment import secrets_in

SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"
RECORDED = ("stages", "layers", "batch", "graphs-node", "graphs-graph", "two-processes")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The analysis of a sample by its name, each made once."""
    folder, made = tmp_path_factory.mktemp("samples"), {}

    def analysis(name):
        if name not in made:
            export = folder / f"h200-{name}.sqlite"
            export.write_bytes(lzma.decompress((SAMPLES / f"{export.name}.xz").read_bytes()))
            made[name] = dsprof.analyze(export, threads="process" if name == "two-processes" else "thread")
        return made[name]

    return analysis


@pytest.mark.parametrize(
    ("name", "requests", "prompt", "steps"),
    [
        ("stages", 3, 1020, 23),
        ("layers", 1, 1020, 5),
        ("batch", 1, 1020, 5),
        ("graphs-node", 2, 512, 16),
        ("graphs-graph", 2, 512, 16),
        ("two-processes", 4, 512, 16),
    ],
)
def test_requests_tokens_and_steps_are_those_that_were_asked_for(sample, name, requests, prompt, steps):
    stages = sample(name)["stage_trace"].groupby("stage", observed=True)["tokens"].agg(list).to_dict()
    assert stages == {"prefill": [prompt] * requests, "decode": [steps] * requests}


@pytest.mark.parametrize("name", RECORDED)
def test_no_launch_was_lost_and_every_table_reconciles(sample, name):
    assert [found.code for found in sample(name).findings if found.strict_exit] == []


@pytest.mark.parametrize(("name", "layers"), [("stages", 0), ("layers", 12), ("batch", 0)])
def test_modules_have_the_ranges_of_their_level(sample, name, layers):
    ranges = sample(name)["range_trace"]
    forwards = int((ranges["name"] == "forward").sum())
    text_layers = ranges["name"].astype(str).str.match(r"module:model\.language_model\.layers\.\d+$")
    assert int(text_layers.sum()) == layers * forwards
    assert int((ranges["name"] == "module:lm_head").sum()) == (0 if name == "batch" else forwards)


def test_a_step_launches_the_same_kernels_in_each_request(sample):
    kernels = sample("stages")["kern_trace"]
    decode = kernels[kernels["stage"] == "decode"]
    by_request = decode.groupby("stage_instance")["step"].value_counts().unstack(0)
    assert by_request.index.tolist() == list(range(1, 24))
    assert (by_request[0] == by_request[1]).all()
    assert (by_request[0] == by_request[2]).all()


def test_graphs_are_seen_node_by_node_or_as_a_whole(sample):
    node, whole = (sample(f"graphs-{mode}")["stage_trace"].query("stage == 'decode'") for mode in ("node", "graph"))
    assert node["launches"].tolist() == whole["launches"].tolist()
    assert (node["kernels"] > 10 * whole["kernels"]).all()
    assert "graphs-hidden" in [found.code for found in sample("graphs-graph").findings]
    assert "graphs-hidden" not in [found.code for found in sample("graphs-node").findings]


def test_flash_attention_is_of_the_family_of_attention():
    record = json.loads((SAMPLES / "h100-flash.model.json").read_text())
    assert record["attention"]["text_config"] == "flash_attention_2"
    assert record["versions"]["flash-attn"]
    kernels = dsprof.analyze(SAMPLES / "h100-flash.sqlite.xz", reuse=False)["stage_kern_sum"]
    of_decode = kernels[
        (kernels["stage"] == "decode") & kernels["kernel"].astype(str).str.contains(r"\bflash::flash_fwd")
    ]
    assert set(of_decode["family"]) == {"attention"}
    layers, steps = record["model_config"]["text_config"]["num_hidden_layers"], 15
    assert of_decode["instances"].sum() == 2 * layers * steps


def test_two_processes_share_correlation_ids_and_nothing_else(sample):
    kernels = sample("two-processes")["kern_trace"]
    staged = kernels[kernels["stage"] != "(no stage)"]
    one, other = (set(part["correlation_id"]) for _, part in staged.groupby("pid"))
    assert one & other
    instances = staged.groupby("pid")["stage_instance"].agg(set).tolist()
    assert staged.groupby(["stage", "stage_instance"], observed=True)["pid"].nunique().eq(1).all()
    assert len(instances) == 2


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.sqlite.xz")), ids=lambda path: path.name.partition(".")[0])
def test_a_sample_names_no_path_no_user_and_no_token(path):
    raw = lzma.decompress(path.read_bytes())
    for word in (b"/tmp/", b"/root", b"/opt/", b"/work", b"/usr/", b"PATH=", b"HOME=", b"LD_LIBRARY"):
        assert word not in raw
    assert secrets_in(texts_in(raw)) == ()
    planted = raw[: len(raw) // 2] + b"\0token=hf_" + b"aB3dE5gH7j" * 4 + b"\0" + raw[len(raw) // 2 :]
    assert secrets_in(texts_in(planted)) != ()


def texts_in(raw: bytes) -> str:
    """What is long enough for a secret, once each: most of a report is numbers, and the same names again and again."""
    return "\n".join(text.decode("utf-8", "replace") for text in sorted(set(re.findall(rb"[^\x00-\x1f]{8,}", raw))))
