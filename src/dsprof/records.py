"""`frozen`: a class of values that cannot be changed, by attrs, with methods that all such classes share.

attrs writes ``__repr__``, ``__eq__`` and ``__hash__`` anew for each class and compiles them when it is imported, and
makes each class twice for its slots: more than half of what a class costs there, and a start loads 170 of them.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from attrs import frozen as frozen  # which a type checker knows
else:

    def frozen(kind: type | None = None, /, *, eq: bool = True, **options: Any) -> Any:
        """`attrs.frozen`, which see; ``eq=False``: an instance is equal to itself alone."""
        if kind is None:
            return lambda kind: frozen(kind, eq=eq, **options)
        own = vars(kind)
        # Without slots, Python 3.11 locks a cached property against all threads, whichever instances they ask.
        slots = any(isinstance(member, cached_property) for member in own.values())
        made = attrs.frozen(kind, eq=False, repr=False, slots=slots, **options)
        shared = {"__repr__": _shown, **({"__eq__": _equals, "__hash__": _hashed} if eq else {})}
        for name in shared.keys() - own.keys():
            setattr(made, name, shared[name])
        return made


def _shown(self: Any) -> str:
    told = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in attrs.fields(type(self)) if one.repr)
    return f"{type(self).__qualname__.rpartition('>.')[2]}({told})"


def _equals(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hashed(self: Any) -> int:
    return hash(_values(self))


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, one.name) for one in attrs.fields(type(self)))
