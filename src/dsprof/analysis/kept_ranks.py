"""What matching needs of a report (`RankReport`), in a file: numbers as arrays, all else as JSON; nothing that is run.

It is written and read by what its classes say of themselves, whatever their fields are.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

import numpy as np
from cattrs import Converter

from dsprof.analysis.ranks import RankReport

_HEAD = "about"
#: What reading a file that somebody changed may end with.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile, ExceptionGroup)


def keep_ranks(ranks: RankReport, path: Path, made_from: Mapping[str, Any]) -> None:
    """Write it to a file, which is there whole or not at all. Raises OSError."""
    arrays: list[np.ndarray[Any, Any]] = []
    document = {"made_from": dict(made_from), "ranks": _writer(arrays).unstructure(ranks)}
    head = np.frombuffer(json.dumps(document).encode(), np.uint8)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            named: dict[str, Any] = {_HEAD: head, **{str(place): array for place, array in enumerate(arrays)}}
            np.savez_compressed(file, **named)
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
            return _reader(file).structure(document["ranks"], RankReport)
    except _UNREADABLE:
        return None


def _is_array(kind: Any) -> bool:
    return (get_origin(kind) or kind) is np.ndarray


def _writer(arrays: list[np.ndarray[Any, Any]]) -> Converter:
    """Puts arrays aside, and their places into what it makes."""
    converter = Converter()

    def aside(array: np.ndarray[Any, Any]) -> int:
        arrays.append(np.asarray(array))
        return len(arrays) - 1

    converter.register_unstructure_hook_func(_is_array, aside)
    return converter


def _reader(file: Mapping[str, Any]) -> Converter:
    converter = Converter()
    converter.register_structure_hook_func(_is_array, lambda place, _: file[str(place)])
    return converter
