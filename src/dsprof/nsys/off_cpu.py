"""When threads were off the CPU: by the scheduler's switches (``--cpuctxsw``), or by OS calls (``--trace=osrt``)."""

from __future__ import annotations

import re

import numpy as np

from dsprof.arrays import Bools, Ints
from dsprof.nsys import schema
from dsprof.nsys.export import Columns, Export
from dsprof.nsys.strings import texts
from dsprof.trace import OffCpu

#: OS calls that wait for something, as nsys names them; others, as ``mmap``, work, and ``read`` does either.
WAITING = re.compile(
    r"p?poll|epoll_p?wait|p?select|(clock_)?nanosleep|u?sleep|pause|sigsuspend|sig(timed)?wait(info)?|futex"
    r"|pthread_(cond_(timed|clock)?wait|(mutex|rwlock)_(timed|clock)?(rd|wr)?lock|barrier_wait|(timed|clock)?join(_np)?)"
    r"|sem_(timed|clock)?wait|wait(pid|id|[34])?|accept4?|recv(from|m?msg)?|mq_(timed)?receive|msgrcv"
)
#: A file is asked for the rows of so many threads; where more have ranges, for those of all.
_FEW_THREADS = 64


def off_cpu_of(export: Export, threads: Ints) -> OffCpu | None:
    """When some threads were off the CPU, by their ``globalTid``; None where the report says nothing of it.

    A thread's switches tell it all. Of one without any its OS calls do, as far as nsys traces those that wait: Python's
    locks with a time limit it does not.
    """
    sources = (schema.SWITCHES, schema.OS_CALLS)
    if not any(_has_rows(export, source.table) for source in sources):
        return None
    switches, calls = (_of_threads(export, source, threads) for source in sources)
    out, back = _between(switches)
    waits = np.flatnonzero(_waits(export, calls["nameId"]) & ~np.isin(calls["globalTid"], switches["globalTid"]))
    return OffCpu(
        start=np.append(switches["start"][out], calls["start"][waits]),
        end=np.append(switches["start"][back], calls["end"][waits]),
        thread=np.append(switches["globalTid"][out], calls["globalTid"][waits]),
    )


def _has_rows(export: Export, table: str) -> bool:
    return export.has(table, "start", "globalTid") and bool(export.rows(f'SELECT 1 FROM "{table}" LIMIT 1'))


def _of_threads(export: Export, source: schema.Source, threads: Ints) -> Columns:
    few = ("globalTid", tuple(threads.tolist())) if 0 < len(threads) <= _FEW_THREADS else None
    raw = export.integers(source, few)
    kept = np.isin(raw["globalTid"], threads)
    return {name: column[kept] for name, column in raw.items()}


def _between(switches: Columns) -> tuple[Ints, Ints]:
    """The rows at which a thread goes off the CPU and those at which it comes back next; others were lost."""
    order = np.lexsort((switches["start"], switches["globalTid"]))
    thread, comes = switches["globalTid"][order], switches["isSchedIn"][order] == 1
    goes = np.flatnonzero(~comes[:-1] & comes[1:] & (thread[:-1] == thread[1:]))
    return order[goes], order[goes + 1]


def _waits(export: Export, name_id: Ints) -> Bools:
    """Is each of some calls, by the ids of their names, one that waits?"""
    used, which = np.unique(name_id, return_inverse=True)
    named = (
        dict(texts(export, schema.STRINGS, "id", "value", used)) if export.has(schema.STRINGS, "id", "value") else {}
    )
    return np.array([bool(WAITING.fullmatch(named.get(one, ""))) for one in used.tolist()], np.bool_)[which.reshape(-1)]
