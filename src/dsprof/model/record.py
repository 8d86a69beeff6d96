"""Which model ran, as a file says it: its configuration, the type of its weights, what each request gave it.

Three kinds of file say it: the ``session.json`` of a capture, the ``<report>.model.json`` that ``dsprof workloads
config`` writes, and a checkpoint's ``config.json``, which knows nothing of requests.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field

from dsprof.errors import ConfigUnreadable
from dsprof.ground.documents import parse_json, text_of
from dsprof.model.costs import View
from dsprof.records import frozen

SCHEMA = "dsprof.model/1"
_SESSION = "dsprof.session/"
#: Sequences of a request are not believed beyond this, nor its pictures and the pixels of a side.
MOST_SEQUENCES = _MOST = 1 << 16
#: Ends the name of a file beside a report that says which model ran; a capture's own record.
BESIDE, RECORD = ".model.json", "session.json"


@frozen
class RequestInput:
    """What one request gave the model: sequences, and pictures as the vision tower saw them; None: not known."""

    batch: int | None = None
    views: tuple[View, ...] | None = None


@frozen
class ModelRecord:
    """Which model ran: `source` is the file that says so, `problem` why it does not; neither: it knows requests only.

    `requests` by number; `each` holds for the requests that are not in it; None where nothing is known of them.
    """

    source: str
    config: dict[str, Any] = field(factory=dict)
    dtype: str = ""
    requests: dict[int, RequestInput] = field(factory=dict)
    each: RequestInput | None = None
    problem: str = ""

    @property
    def names_model(self) -> bool:
        """Does it say which model ran, or why it does not?"""
        return bool(self.config or self.problem)

    def served(self, request: int) -> RequestInput | None:
        """What the request of that number gave the model; None where it is not known."""
        return self.requests.get(request, self.each)


def find_record(report: Path) -> ModelRecord | None:
    """What lies beside a report and says which model ran; what cannot be read is in its `problem`."""
    for path in (report.with_suffix(BESIDE), report.with_name(RECORD)):
        if not os.path.isfile(path):  # noqa: PTH113  Path raises for a name that is too long
            continue
        try:
            document = _document(path)
            if path.name != RECORD or _is_of(document, report):
                return _record(path, document)
        except ConfigUnreadable as error:
            return ModelRecord(path.name, problem=error.message)
    return None


def find_session(report: Path) -> dict[str, Any]:
    """The record of the capture that a report is of; empty where none lies beside it that can be read."""
    path = report.with_name(RECORD)
    try:
        document = _document(path) if os.path.isfile(path) else {}  # noqa: PTH113  as above
    except ConfigUnreadable:
        return {}
    return document if str(document.get("schema", "")).startswith(_SESSION) and _is_of(document, report) else {}


def read_record(path: Path) -> ModelRecord:
    """The model that a file names. Raises `ConfigUnreadable`."""
    found = _record(path, _document(path))
    if not found.names_model:
        raise _unreadable(path, "the capture that it is of left no configuration")
    return found


def _document(path: Path) -> dict[str, Any]:
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH110, PTH112, PTH113
        raise _unreadable(path, "it is no file")  # a pipe or a device may never end
    try:
        document = parse_json(text_of(path))
    except (OSError, ValueError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error
    if not isinstance(document, dict):
        raise _unreadable(path, "it is no object")
    return document


def _is_of(document: Mapping[str, Any], report: Path) -> bool:
    """Is a session's record that of this report, and not of another one in the folder?"""
    names = document.get("reports")
    return isinstance(names, list) and report.stem in {Path(str(name)).stem for name in names}


def _record(path: Path, document: dict[str, Any]) -> ModelRecord:
    """What a document says; a capture that did not know its model has a record of its requests."""
    schema = str(document.get("schema", ""))
    try:
        if schema.startswith(_SESSION):
            config = document.get("model_config") or {}
            requests = _requests(document.get("requests") or [])
            return ModelRecord(path.name, config, str(document.get("dtype", "")), requests)
        if schema == SCHEMA:
            batch = document.get("batch")
            served = _served([document.get("views")], None if batch is None else int(batch))
            return ModelRecord(path.name, dict(document["config"]), str(document.get("dtype", "")), each=served)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _unreadable(path, f"it holds something else than it should ({error!r})") from error
    if "model_type" not in document:
        raise _unreadable(path, "it names no model_type")
    return ModelRecord(path.name, document, dtype_of(document))


def dtype_of(config: Mapping[str, Any]) -> str:
    """Type of the weights that a configuration names, by whichever of the names it had; empty for none."""
    parts = [config, config.get("text_config") or {}]
    named = (part.get(key) for part in parts for key in ("dtype", "torch_dtype"))
    return next((str(name).removeprefix("torch.") for name in named if name), "")


def _requests(records: list[dict[str, Any]]) -> dict[int, RequestInput]:
    """The session's records of single images, put together by request."""
    views: dict[int, list[Any]] = {}
    for record in records:
        views.setdefault(int(record["timing"]["request"]), []).append(record.get("views"))
    return {request: _served(found, len(found)) for request, found in views.items()}


def _served(views: list[Any], batch: int | None) -> RequestInput:
    """`views`: for each image, how many pictures of which height and width it became, or None."""
    if batch is not None and not 0 < batch <= MOST_SEQUENCES:
        raise ValueError(f"a batch of {batch}")
    if any(one is None for one in views):
        return RequestInput(batch)
    found = tuple(View(*map(int, view)) for one in views for view in one)
    if not all(0 < number <= _MOST for view in found for number in (view.count, view.height, view.width)):
        raise ValueError("pictures without a size that can be")
    return RequestInput(batch, found)


def _unreadable(path: Path, reason: str) -> ConfigUnreadable:
    hint = "Name a checkpoint's config.json, a capture's session.json, or what `dsprof workloads config` wrote."
    return ConfigUnreadable(f"The file {path} does not say which model ran: {reason}.", hint)
