"""The published JSON Schemas: they are the code's, every document that is written fits, and a changed one does not."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import attrs
import pytest

import dsprof
import readme
from dsprof.agents import schemas as made
from dsprof.agents.schemas import schemas
from dsprof.analysis.analyze import Analysis
from dsprof.analysis.many import analyze_many
from dsprof.answers.what_if import Changes
from dsprof.capture.record import SCHEMA, Session, read_session, write_record
from dsprof.cli import main
from dsprof.cli.schema import Document
from dsprof.errors import NotPredictable
from dsprof.show import plain
from dsprof.tables import all_tables
from test_many import made as made_rank
from test_page import hostile

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

ROOT = Path(__file__).parent.parent
SAMPLES = sorted((ROOT / "traces/samples").glob("*.sqlite.xz"))
#: Objects that may have any names, by the name under which they stand.
FREE = {"idle_ns", "versions", "attention", "model_config", "stages_ns", "variables", "settings"}


def parsed(text: str) -> Any:
    """The document in a text, in which every number is one."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def wrong(name: str, document: Any) -> list[str]:
    """What of a document does not fit its schema."""
    found = jsonschema.Draft202012Validator(schemas()[name]).iter_errors(document)
    return [f"{one.json_path}: {one.message[:200]}" for one in found]


def documents_of(analysis: Analysis, rows: int = 30) -> Iterator[tuple[str, Any]]:
    """What is written of a report; of tables the first rows, and the last."""
    yield "summary", parsed("".join(plain.summary_json(analysis.summary())))
    for name in all_tables():
        table = analysis.arrow(name)
        for part in (table.slice(0, rows), table.slice(max(len(table) - rows, 0))):
            yield "table", parsed(plain.to_json(name, part))
    try:
        yield "whatif", parsed(plain.what_if_json(analysis.predict(Changes(cuda_graphs=True))))
    except NotPredictable:
        return


def filled(hint: Any) -> Any:
    """A value of a type in which nothing is left out that may be there."""
    if attrs.has(hint):
        hints = get_type_hints(hint)
        return hint(**{one.name: filled(hints[one.name]) for one in attrs.fields(hint)})
    arguments = [one for one in get_args(hint) if one not in (type(None), Ellipsis)]
    kind = get_origin(hint) or hint
    if kind in (list, tuple):
        return kind(filled(one) for one in arguments)
    if kind is dict:
        return {"name": filled(arguments[1])}
    return {str: "text", int: 7, float: 0.5, bool: True, Any: [None, "any"]}.get(kind) or filled(arguments[0])


def session() -> Session:
    return attrs.evolve(filled(Session), schema=SCHEMA)


# -- the schemas -------------------------------------------------------------------------------------------------------


def test_what_is_published_is_what_the_code_says() -> None:
    files = readme.schema_files()
    assert {path: path.read_text(encoding="utf-8") for path in files} == files, "run `make readme`"
    assert sorted(path.name for path in (ROOT / "docs/schemas").iterdir()) == sorted(path.name for path in files)


@pytest.mark.parametrize("name", schemas())
def test_each_is_a_schema_that_names_its_version(name: str) -> None:
    schema = schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    version = schema["properties"]["schema"]["const"]
    assert schema["$id"] == f"urn:dsprof:{name}:{str(version).rpartition('/')[2]}"
    assert schema["additionalProperties"] is False and schema["description"]


def test_fields_that_are_columns_mean_what_the_columns_say() -> None:
    for kind, table in made._ROWS_OF.items():
        document = "reports" if kind.__module__.endswith("reports") else "summary"
        properties = schemas()[document]["$defs"][kind.__name__]["properties"]
        columns = {one.name: one.text for one in made._columns_of(table)}
        shared = set(columns) & set(properties)
        assert len(shared) >= 0.6 * len(attrs.fields(kind)), f"{kind.__name__} is no row of {table}"
        assert {name: properties[name]["description"] for name in shared} == {name: columns[name] for name in shared}


def test_the_command_prints_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["dsprof", "schema", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    assert [line.split()[0] for line in run().splitlines()] == list(schemas()) == list(Document)
    assert json.loads(run("diff")) == schemas()["diff"]


# -- documents fit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.partition(".")[0])
def test_all_that_is_said_of_a_sample_fits(sample: Path) -> None:
    analysis = dsprof.analyze(sample)
    assert [fault for name, document in documents_of(analysis) for fault in wrong(name, document)] == []


def test_what_is_said_of_hostile_names_fits(tmp_path: Path) -> None:
    assert [fault for name, one in documents_of(hostile(tmp_path)) for fault in wrong(name, one)] == []


def test_what_is_said_of_several_reports_fits(tmp_path: Path) -> None:
    for rank in range(2):
        made_rank(tmp_path / f"tp-rank{rank}.sqlite", late=rank * 500_000)
    (tmp_path / "bad.sqlite").write_bytes(b"")
    many = analyze_many([tmp_path], on="loop")
    assert wrong("reports", parsed("".join(plain.reports_json(many.summary())))) == []
    for name in many:
        assert wrong("table", parsed(plain.to_json(name, many.arrow(name)))) == [], name


@pytest.fixture(scope="module")
def compared() -> list[Any]:
    samples = ROOT / "traces/samples"
    sides = [samples / f"h100-llama-1-{kind}.sqlite.xz" for kind in ("eager", "pageable-copy")]
    refused = dsprof.diff(sides[0], samples / "h200-graphs-node.sqlite.xz")
    gates = ["default", "decode.launches<1%"]
    return [parsed(plain.diff_json(one.outcome)) for one in (dsprof.diff(*sides, gates=gates), refused)]


def test_comparisons_fit(compared: list[Any]) -> None:
    assert compared[0]["stages"] and not compared[1]["stages"]
    assert [fault for one in compared for fault in wrong("diff", one)] == []


def test_a_session_fits(tmp_path: Path) -> None:
    write_record(tmp_path, session())
    assert read_session(tmp_path) == session()
    assert wrong("session", parsed((tmp_path / "session.json").read_text())) == []


def test_what_sql_gives_fits() -> None:
    pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'dsprof[query]'")
    from dsprof.ground.sql import Limits

    analysis = dsprof.analyze(ROOT / "traces/samples/h200-graphs-node.sqlite.xz")
    sql = "SELECT *, [1] AS l, 'nan'::DOUBLE AS n, 18446744073709551615 > 1 AS b FROM stage_sum"
    found = analysis.ask(sql, Limits())
    assert wrong("query", parsed(plain.query_json(sql, found.table, None, found.cut))) == []


# -- and changed ones do not -------------------------------------------------------------------------------------------


def objects(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to one object of each kind in a document: of lists those in their first member."""
    if isinstance(document, dict):
        yield path
        for name, value in document.items():
            if name not in FREE:
                yield from objects(value, (*path, name))
    elif isinstance(document, list) and document:
        yield from objects(document[0], (*path, 0))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


@pytest.fixture(scope="module")
def written(compared: list[Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    analysis = dsprof.analyze(ROOT / "traces/samples/h200-stages.sqlite.xz")
    found = dict(documents_of(analysis, rows=2)) | {"diff": compared[0]}
    found["table"] = parsed(plain.to_json("stage_sum", analysis.arrow("stage_sum")))
    folder = tmp_path_factory.mktemp("session")
    write_record(folder, session())
    found["session"] = parsed((folder / "session.json").read_text())
    return found


@pytest.mark.parametrize("name", ["summary", "table", "diff", "whatif", "session"])
def test_a_changed_document_does_not_fit(name: str, written: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(schemas()[name])
    whole = written[name]
    assert validator.is_valid(whole)
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda one: one.update(surplus=1),
        lambda one: one.update({next(name for name in one if name not in FREE): {"of": "another type"}}),
    ]
    if name != "table":  # in whose rows columns may be left out
        changes.append(lambda one: one.pop(next(reversed(one))))
    paths = [path for path in objects(whole) if at(whole, path)]
    assert len(paths) >= 2
    for path in paths:
        for change in changes:
            other = copy.deepcopy(whole)
            change(at(other, path))
            assert not validator.is_valid(other), path
    assert not validator.is_valid({**whole, "schema": "dsprof.other/1"})
