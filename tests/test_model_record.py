"""Which model ran: from a capture's record, from a file beside the report, from a checkpoint; and wrong files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsprof.errors import ConfigUnreadable
from dsprof.model.costs import View
from dsprof.model.record import SCHEMA, ModelRecord, RequestInput, find_record, read_record

CONFIG = {"model_type": "llama", "hidden_size": 8}
VIEWS = [[1, 768, 768], [6, 640, 640]]


def session(**changes: Any) -> dict[str, Any]:
    """The part of a capture's record that counts: two requests, the second of two images."""
    requests = [{"image": "a", "timing": {"request": number}, "views": VIEWS} for number in (0, 1, 1)]
    return {"schema": "dsprof.session/1", "reports": ["run.nsys-rep"], "requests": requests, "dtype": "bfloat16",
            "model_config": CONFIG, **changes}  # fmt: skip


def written(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_a_captures_record_tells_each_request(tmp_path: Path) -> None:
    found = read_record(written(tmp_path / "session.json", session()))
    assert (found.source, found.config, found.dtype) == ("session.json", CONFIG, "bfloat16")
    seen = (View(1, 768, 768), View(6, 640, 640))
    assert found.requests == {0: RequestInput(1, seen), 1: RequestInput(2, seen * 2)}
    assert (found.served(1), found.served(2)) == (RequestInput(2, seen * 2), None)


def test_views_that_are_not_known_are_not_none_at_all(tmp_path: Path) -> None:
    requests = [{"timing": {"request": 0}}, {"timing": {"request": 1}, "views": []}]
    found = read_record(written(tmp_path / "session.json", session(requests=requests)))
    assert found.requests == {0: RequestInput(1, None), 1: RequestInput(1, ())}


def test_what_dsprof_writes_holds_for_every_request(tmp_path: Path) -> None:
    document = {"schema": SCHEMA, "config": CONFIG, "dtype": "float16", "batch": 2, "views": VIEWS}
    found = read_record(written(tmp_path / "x.model.json", document))
    assert found.served(17) == RequestInput(2, (View(1, 768, 768), View(6, 640, 640)))
    document["views"] = None
    assert read_record(written(tmp_path / "x.model.json", document)).served(0) == RequestInput(2, None)


@pytest.mark.parametrize(
    ("extra", "dtype"),
    [
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "float16", "torch_dtype": "bfloat16"}, "float16"),
        ({"dtype": None, "text_config": {"dtype": "torch.bfloat16"}}, "bfloat16"),
        ({}, ""),
    ],
)
def test_a_checkpoints_configuration_knows_no_requests(tmp_path: Path, extra: dict[str, Any], dtype: str) -> None:
    found = read_record(written(tmp_path / "config.json", {**CONFIG, **extra}))
    assert (found.dtype, found.served(0)) == (dtype, None)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "Expecting"),
        ([], "it is no object"),
        ({}, "it names no model_type"),
        (session(model_config={}), "left no configuration"),
        ({"schema": "dsprof.session/1", "reports": []}, "left no configuration"),
        (session(requests=[{"views": []}]), "something else than it should"),
        (session(requests=[{"timing": {"request": 0}, "views": [[1, 2]]}]), "something else than it should"),
        ("[" * 100_000, "nested too deeply"),
        ({"schema": SCHEMA, "config": CONFIG, "batch": 0}, "a batch of 0"),
        ({"schema": SCHEMA, "config": CONFIG, "views": [[0, 8, 8]]}, "pictures without a size that can be"),
        ({"schema": SCHEMA, "batch": 1}, "something else than it should"),
        ({"schema": SCHEMA, "config": 3}, "something else than it should"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, document: Any, reason: str) -> None:
    path = written(tmp_path / "file.json", document)
    with pytest.raises(ConfigUnreadable) as caught:
        read_record(path)
    assert str(path) in caught.value.message
    assert reason in caught.value.message
    assert "config.json" in caught.value.hint


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnreadable, match="No such file"):
        read_record(tmp_path / "config.json")


# -- what lies beside a report ---------------------------------------------------------------------------


def test_the_record_of_the_capture_is_found_and_that_of_another_is_not(tmp_path: Path) -> None:
    written(tmp_path / "session.json", session())
    found = find_record(tmp_path / "run.sqlite")
    assert found is not None
    assert found.config == CONFIG
    assert find_record(tmp_path / "run.nsys-rep") == found
    assert find_record(tmp_path / "other.sqlite") is None


def test_the_reports_own_file_comes_first(tmp_path: Path) -> None:
    written(tmp_path / "session.json", session())
    written(tmp_path / "run.model.json", {**CONFIG, "hidden_size": 16})
    found = find_record(tmp_path / "run.sqlite")
    assert found is not None
    assert (found.source, found.config["hidden_size"]) == ("run.model.json", 16)


def test_a_capture_that_knew_no_model_is_no_trouble(tmp_path: Path) -> None:
    """A record from before models were recorded, and one of a command; of the first the requests are known."""
    document = session()
    del document["model_config"], document["dtype"]
    written(tmp_path / "session.json", document)
    found = find_record(tmp_path / "run.sqlite")
    assert found is not None
    assert (found.names_model, [found.served(number).batch for number in (0, 1)]) == (False, [1, 2])
    written(tmp_path / "session.json", {**document, "requests": []})
    found = find_record(tmp_path / "run.sqlite")
    assert found is not None
    assert (found.names_model, found.served(0)) == (False, None)
    assert find_record(tmp_path / "nothing" / "run.sqlite") is None
    assert find_record(tmp_path / ("x" * 300)) is None


def test_a_damaged_file_beside_a_report_is_not_silent(tmp_path: Path) -> None:
    written(tmp_path / "run.model.json", "{")
    found = find_record(tmp_path / "run.sqlite")
    assert isinstance(found, ModelRecord)
    assert "does not say which model ran" in found.problem
