"""JSON Schemas of the documents that dsprof writes, made from the classes and tables that these are written from.

Draft 2020-12. A document's field ``schema`` names the version that its ``$id`` ends in. What a field is called and may
hold comes from its class, and what it means from the column of the table that it is taken from, so that no schema says
something else than the code.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from dsprof.analysis.gather import REPORT_COLUMNS, REPORTS_TABLE, WHO
from dsprof.answers import what_if
from dsprof.answers.what_if import WhatIf
from dsprof.capture.record import SCHEMA as SESSION
from dsprof.capture.record import Session
from dsprof.compare.kernels import OperationChange
from dsprof.compare.outcome import SCHEMA as DIFF
from dsprof.compare.outcome import Measured, Outcome
from dsprof.compare.waterfall import Part
from dsprof.records import frozen
from dsprof.show import reports, summary
from dsprof.show.plain import QUERY_SCHEMA
from dsprof.show.reports import ReportsSummary
from dsprof.show.summary import Summary
from dsprof.tables import all_tables
from dsprof.tables._table import SCHEMA_VERSION, Column

Schema = dict[str, Any]
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
#: Classes whose fields are columns of a table, under the same names.
_ROWS_OF = {
    summary.StageLine: "stage_sum", summary.InstanceLine: "stage_trace", summary.RankLine: "rank_sum",
    summary.RequestLine: "request_trace", summary.StepLine: "step_sum", summary.EngineLine: "engine_sum",
    summary.OutlierLine: "step_trace", summary.FamilyLine: "stage_family_sum", summary.KernelLine: "stage_kern_sum",
    summary.LayerLine: "layer_sum", summary.RangeLine: "range_sum", reports.ReportLine: REPORTS_TABLE,
}  # fmt: skip
_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_KINDS = {"int": "integer", "float": "number", "name": "string", "bool": "boolean"}


@frozen
class Percent:
    """A change in percent with its interval, over so many units on both sides."""

    pct: float | None
    low_pct: float | None
    high_pct: float | None
    over: str
    before_n: int
    after_n: int


#: Fields of a comparison that its document has otherwise, None where it leaves them out.
_OTHERWISE: dict[type, dict[str, Any]] = {
    Measured: {"change": Percent | None, "seen": None, "seen_pct": float | None},
    Part: {"change_ns": float},
    OperationChange: {"each": Percent | None, "change_ns": float, "verdict": str},
}


@cache
def schemas() -> dict[str, Schema]:
    """Every schema by the name of its document."""
    return {name: make() for name, make in _DOCUMENTS.items()}


def _of_class(kind: type, name: str, version: str, about: str) -> Schema:
    """The schema of a document that is an object of a class, and that says its version."""
    defs: dict[str, Schema] = {}
    top = _object(kind, defs)
    top["properties"]["schema"] = {"const": version}
    top["required"] = list(top["properties"])
    return _document(name, version.rpartition("/")[2], about, top, defs)


def _document(name: str, version: object, about: str, top: Schema, defs: Mapping[str, Schema]) -> Schema:
    head = {"$schema": _DRAFT, "$id": f"urn:dsprof:{name}:{version}", "title": f"dsprof {name}", "description": about}
    return {**head, **{key: value for key, value in top.items() if key != "description"}, "$defs": dict(defs)}


def _object(kind: type, defs: dict[str, Schema]) -> Schema:
    """A class as an object that has all its fields and no others."""
    hints: dict[str, Any] = get_type_hints(kind)
    fields = {one.name: hints[one.name] for one in attrs.fields(kind)} | _OTHERWISE.get(kind, {})
    columns = {one.name: one for one in _columns_of(_ROWS_OF[kind])} if kind in _ROWS_OF else {}
    properties = {
        name: _of_type(hint, defs) | _meaning(name, columns) for name, hint in fields.items() if hint is not None
    }
    return _closed(properties, about=" ".join((kind.__doc__ or "").split()))


def _closed(properties: Mapping[str, Schema], about: str = "", required: Iterable[str] | None = None) -> Schema:
    return {
        "type": "object",
        **({"description": about} if about else {}),
        "properties": dict(properties),
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _meaning(name: str, columns: Mapping[str, Column]) -> Schema:
    """What a field means: as its column does; its unit where nothing else is known."""
    column = columns.get(name)
    if column is not None:
        return {"description": column.text}
    unit = Column(name, "").unit
    return {"description": f"In {unit}."} if unit else {}


def _of_type(hint: Any, defs: dict[str, Schema]) -> Schema:
    arguments, origin = get_args(hint), get_origin(hint)
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if hint is Any:
        return {}
    if origin in (Union, types.UnionType):
        return _either([_of_type(one, defs) for one in arguments])
    if origin in (list, tuple):
        return _of_list(arguments, defs)
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_type(arguments[1], defs)}
    if not attrs.has(hint):
        raise TypeError(f"there is no schema for {hint}")
    if hint.__name__ not in defs:
        defs[hint.__name__] = {}  # it may hold itself
        defs[hint.__name__] = _object(hint, defs)
    return {"$ref": f"#/$defs/{hint.__name__}"}


def _either(kinds: list[Schema]) -> Schema:
    if all(set(kind) == {"type"} for kind in kinds):
        return {"type": [kind["type"] for kind in kinds]}
    return {"anyOf": kinds}


def _of_list(arguments: tuple[Any, ...], defs: dict[str, Schema]) -> Schema:
    if len(arguments) == 1 or arguments[-1] is Ellipsis:
        return {"type": "array", "items": _of_type(arguments[0], defs)}
    each = [_of_type(one, defs) for one in arguments]
    return {"type": "array", "prefixItems": each, "minItems": len(each), "maxItems": len(each)}


# -- tables -----------------------------------------------------------------------------------------------------------


def _columns_of(table: str) -> Iterable[Column]:
    return REPORT_COLUMNS if table == REPORTS_TABLE else all_tables()[table].columns


def _row(table: str) -> Schema:
    """A row of a table: some of its columns, over several reports also which report it is of."""
    columns = {one.name: one for one in (*WHO, *_columns_of(table))}
    return _closed({name: _value(one) for name, one in columns.items()}, required=())


def _value(column: Column) -> Schema:
    kind = _KINDS[column.kind]
    return {"type": [kind, "null"] if column.nullable else kind, "description": column.text}


def _table() -> Schema:
    names = [*all_tables(), REPORTS_TABLE]
    column = _closed(
        {one: {"type": "string"} for one in ("name", "description", "unit")}, "A column.", required=["name"]
    )
    top = _closed({
        "table": {"enum": names},
        "schema": {"const": SCHEMA_VERSION},
        "selection": {"type": "string", "description": "What of the report was analyzed; empty: all of it."},
        "columns": {"type": "array", "items": column},
        "rows": {"type": "array", "items": {"type": "object"}, "description": "Each by the names of its columns."},
    })  # fmt: skip
    top["allOf"] = [
        {
            "if": {"properties": {"table": {"const": name}}},
            "then": {"properties": {"rows": {"items": {"$ref": f"#/$defs/{name}"}}}},
        }
        for name in names
    ]
    return _document("table", SCHEMA_VERSION, "What `dsprof table --format json` prints.", top,
                     {name: _row(name) for name in names})  # fmt: skip


def _query() -> Schema:
    column = _closed({
        "name": {"type": "string"},
        "kind": {"enum": ["int", "float", "bool", "text"]},
        "unit": {"type": "string", "description": "The unit that the name ends in; empty without one."},
    })  # fmt: skip
    value = {"type": ["integer", "number", "boolean", "string", "null"]}
    top = _closed({
        "schema": {"const": QUERY_SCHEMA},
        "sql": {"type": "string", "description": "The statement."},
        "limit": {"type": ["integer", "null"], "description": "Rows that were asked for at most."},
        "cut": {"type": "boolean", "description": "There are more rows than that."},
        "columns": {"type": "array", "items": column},
        "rows": {"type": "array", "items": {"type": "object", "additionalProperties": value}},
    })  # fmt: skip
    return _document("query", 1, "What `dsprof query --format json` prints.", top, {})


_DOCUMENTS: dict[str, Callable[[], Schema]] = {
    "summary": lambda: _of_class(
        Summary, "summary", summary.SCHEMA, "What `dsprof analyze --format json` prints of one report."
    ),
    "reports": lambda: _of_class(
        ReportsSummary, "reports", reports.SCHEMA, "What `dsprof analyze --format json` prints of several reports."
    ),
    "table": _table,
    "query": _query,
    "diff": lambda: _of_class(Outcome, "diff", DIFF, "What `dsprof diff --format json` prints."),
    "whatif": lambda: _of_class(WhatIf, "whatif", what_if.SCHEMA, "What `dsprof whatif --format json` prints."),
    "session": lambda: _of_class(
        Session, "session", SESSION, "What `dsprof capture` writes of a session, `session.json`."
    ),
}
