"""A method of one object, put behind a function for a while; the object is not kept alive by it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

#: Gets the method, bound, and what it was called with.
Wrapper = Callable[..., Any]


def wrap(target: Any, name: str, wrapper: Wrapper) -> Callable[[], None]:
    """Set an attribute of the instance before a method of it; code that calls `self.name` meets it, too.

    The result puts back what was there, and does nothing where the object is gone.
    """
    original = getattr(target, name)
    had = name in vars(target)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        return wrapper(original, *arguments, **keywords)

    object.__setattr__(target, name, wrapped)
    return functools.partial(_restore, weakref.ref(target), name, had)


def _restore(reference: weakref.ref[Any], name: str, had: bool) -> None:
    target = reference()
    if target is None:
        return
    wrapped = vars(target).pop(name, None)
    if had and wrapped is not None:
        object.__setattr__(target, name, wrapped.__wrapped__)
