"""NVTX ranges that every Nsight Systems records, through whichever nvtx package is installed.

nvtx 0.2.12 and later ask the tool, through an extension, whether a domain is wanted. Nsight Systems up to
2024.2 refuses the extension, the package then hands out a domain that does nothing, and the capture holds
no ranges. The domain made here goes past that question; 0.2.8 to 0.2.11 never asked it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Protocol

from attrs import define, field

from dsprof.words import BATCH, DECODE, DOMAIN, PREFILL


class Domain(Protocol):
    """Push and pop of ranges in one NVTX domain, on the calling thread."""

    def push(self, name: str, payload: int | None = None) -> None:
        """Open a range."""

    def pop(self) -> None:
        """Close the innermost open range of this domain and thread."""


@define
class Stack:
    """The open ranges, so that every push has its pop whatever is raised between them."""

    domain: Domain
    names: list[str] = field(factory=list)

    def push(self, name: str, payload: int | None = None) -> None:
        """Open a range in the innermost one."""
        self.names.append(name)
        self.domain.push(name, payload)

    def pop_to(self, depth: int) -> None:
        """Close all but the `depth` outermost."""
        while len(self.names) > depth:
            self.names.pop()
            self.domain.pop()

    def pop_through(self, name: str) -> None:
        """Close the innermost range of that name and what is still open inside it."""
        for depth in range(len(self.names) - 1, -1, -1):
            if self.names[depth] == name:
                self.pop_to(depth)
                return


class _DomainObject:
    """nvtx 0.2.12 and later: a domain object with prepared attributes."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain
        self._attributes: dict[str, Any] = {}

    def push(self, name: str, payload: int | None = None) -> None:
        if payload is not None:
            self._domain.push_range(self._domain.get_event_attributes(name, None, None, payload))
            return
        if name not in self._attributes:
            self._attributes[name] = self._domain.get_event_attributes(name, None, None, None)
        self._domain.push_range(self._attributes[name])

    def pop(self) -> None:
        self._domain.pop_range()


class _ModuleFunctions:
    """nvtx 0.2.8 to 0.2.11: functions that take the domain's name; some of them know no payload."""

    def __init__(self, module: Any, domain: str) -> None:
        self._nvtx, self._domain = module, domain
        self._payload = "payload" in inspect.signature(module.push_range).parameters

    def push(self, name: str, payload: int | None = None) -> None:
        extra = {"payload": payload} if self._payload and payload is not None else {}
        self._nvtx.push_range(name, domain=self._domain, **extra)

    def pop(self) -> None:
        self._nvtx.pop_range(domain=self._domain)


@cache
def open_domain(name: str = DOMAIN) -> Domain:
    """The NVTX domain `name`. Raises ImportError where the nvtx package is missing."""
    import nvtx

    get_domain = getattr(nvtx, "get_domain", None)
    found = get_domain(name) if get_domain else None
    if type(found).__name__ == "DummyDomain":
        found = _domain_past_the_question(name)
    return _DomainObject(found) if hasattr(found, "push_range") else _ModuleFunctions(nvtx, name)


def _domain_past_the_question(name: str) -> Any:
    """A real domain object of nvtx 0.2.12+, made without asking whether the tool wants it (private API)."""
    from nvtx._lib import lib

    domain = object.__new__(lib.Domain)
    domain.handle = lib.DomainHandle(name)
    domain.name = name
    domain.categories = {}
    return domain


@contextmanager
def annotate(name: str, payload: int | None = None) -> Iterator[None]:
    """A range of dsprof's domain around a block; it is closed when the block raises, too."""
    domain = open_domain()
    domain.push(name, payload)
    try:
        yield
    finally:
        domain.pop()


@contextmanager
def prefill_range(tokens: int | None = None, batch: int | None = None) -> Iterator[None]:
    """Mark a prefill in a hand-written loop; `tokens`: length of the prompt, `batch`: sequences that have one.

    >>> with prefill_range(1020, batch=4):
    ...     pass
    """
    with annotate(PREFILL, tokens):
        if batch is not None:
            with annotate(BATCH, batch):
                pass
        yield


def decode_range() -> AbstractContextManager[None]:
    """Mark a decode in a hand-written loop, all of its steps in one range.

    >>> with decode_range():
    ...     pass
    """
    return annotate(DECODE)
