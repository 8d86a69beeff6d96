"""What matching needs of a report (`RankReport`), in a file: numbers as arrays, all else as JSON; nothing that is run.

It is written and read by what its classes say of themselves, whatever their fields are.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_origin

import numpy as np
from cattrs import Converter

from dsprof.analysis.ranks import RankReport

_HEAD, _ARRAY = "about", "array"
#: What reading a file that somebody changed may end with.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile, ExceptionGroup)


def keep_ranks(ranks: RankReport, path: Path, made_from: Mapping[str, Any]) -> None:
    """Write it to a file, which is there whole or not at all. Raises OSError."""
    arrays: dict[str, Any] = {}
    document = {"made_from": dict(made_from), "ranks": _aside(_converter().unstructure(ranks), arrays)}
    head = np.frombuffer(json.dumps(document).encode(), np.uint8)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **{_HEAD: head, **arrays})
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def kept_ranks(path: Path, made_from: Mapping[str, Any] | None = None) -> RankReport | None:
    """What a file holds, if it was made from this; whatever it was made from unless given. None where it is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            document = json.loads(file[_HEAD].tobytes())
            if made_from is not None and document["made_from"] != json.loads(json.dumps(dict(made_from))):
                return None
            return _converter().structure(_back(document["ranks"], file), RankReport)
    except _UNREADABLE:
        return None


def _aside(value: Any, arrays: dict[str, Any]) -> Any:
    """A document with names in place of arrays, which are put aside under them."""
    if isinstance(value, np.ndarray):
        arrays[str(len(arrays))] = value
        return {_ARRAY: str(len(arrays) - 1)}
    if isinstance(value, Mapping):
        return {key: _aside(one, arrays) for key, one in value.items()}
    return [_aside(one, arrays) for one in value] if isinstance(value, list | tuple) else value


def _back(value: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return arrays[value[_ARRAY]] if value.keys() == {_ARRAY} else {k: _back(v, arrays) for k, v in value.items()}
    return [_back(one, arrays) for one in value] if isinstance(value, list) else value


@cache
def _converter() -> Converter:
    """Between classes and documents, in which arrays stay as they are."""
    converter = Converter()
    converter.register_unstructure_hook_func(_is_array, lambda array: array)
    converter.register_structure_hook_func(_is_array, lambda array, _: array)
    return converter


def _is_array(kind: Any) -> bool:
    return (get_origin(kind) or kind) is np.ndarray
