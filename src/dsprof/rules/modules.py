"""Which module of a model a range is of: as dsprof names it, and as the layer hooks of serving engines do."""

from __future__ import annotations

import ast
import re

from dsprof.words import MODULE, MODULES

#: A module without a name is the model itself.
ROOT = "(root)"
#: The first value of a dict as Python writes it; nothing in it is gone over twice, so a long one takes no time.
_QUOTED = re.compile(r"""\{['"]Module['"]: *('(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")""", re.DOTALL)
#: A number between dots or in brackets is an index.
_INDEX = re.compile(r"(?<![^.\[])\d+(?![^.\]])")


def module_of(name: str) -> str | None:
    """The qualified name of the module that a range of this name is of; None for a range of something else.

    The hooks of vLLM, SGLang and TensorRT-LLM write a dict, of which ``Module`` is the first key; what stands behind it
    is not looked at.

    >>> module_of("module:lm_head"), module_of("{'Module': 'model.layers.0', 'Inputs': [[1, 5]]}"), module_of("forward")
    ('lm_head', 'model.layers.0', None)
    """
    if not name.startswith(MODULES):
        return None
    if name.startswith(MODULE):
        return name.removeprefix(MODULE) or ROOT
    found = _QUOTED.match(name)
    return None if found is None else _text(found[1]) or ROOT


def folded(module: str) -> str:
    """The name with each index as ``*``, which the layers of a model have in common.

    >>> folded("model.layers.12.mlp.experts[3]")
    'model.layers.*.mlp.experts[*]'
    """
    return _INDEX.sub("*", module)


def _text(quoted: str) -> str:
    """What a quoted text stands for; where it is none, what stands between the quotes."""
    if "\\" not in quoted:
        return quoted[1:-1]
    try:
        return str(ast.literal_eval(quoted)).encode("utf-8", "replace").decode()  # half a character is none
    except (ValueError, SyntaxError):
        return quoted[1:-1]
