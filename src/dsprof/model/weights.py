"""How many bytes the weights of a model take, and in which type they are multiplied: as they are, or quantized.

What a configuration's ``quantization_config`` says is followed for the methods in `METHODS`; their layouts are those of
the classes of transformers 5.24 (``integrations/finegrained_fp8``, ``integrations/mxfp4``), of bitsandbytes 0.50
(``functional``), of GPTQ's and AWQ's ``QuantLinear``, and of compressed-tensors 0.20. Counted are the weights and their
scales, and zero points and orders where there are some. Anything else is unknown, and not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from dsprof.errors import PatternTooSlow
from dsprof.ground.patterns import first_found
from dsprof.records import frozen

#: Bytes of an element, by the names that a configuration gives to the types of weights.
ITEM_BYTES = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
_FP8, _INT8 = "float8_e4m3fn", "int8"
#: bitsandbytes: weights with one float32 scale, and scales with one where these are quantized to a byte themselves.
_BLOCK_4BIT, _BLOCK_SCALES = 64, 256
#: Weights of MXFP4 with one scale of a byte.
_BLOCK_MXFP4 = 32
#: Modules whose weights no method quantizes: they are vectors, or multiplied with by no linear layer.
_NEVER = re.compile(r"norm$|^model\.embed_tokens$")

#: A name that says no more than itself.
_PLAIN = re.compile(r"[\w.]+")
#: More names of modules than any model has.
_MOST_SKIPPED = 10_000
#: Formats of compressed-tensors in which quantized weights lie in their bits.
_PACKED = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")


class UnknownModel(ValueError):
    """A configuration whose costs cannot be told; the message is a sentence."""


class Matrix(NamedTuple):
    """Weights that something is multiplied with: name of the module, its outputs and inputs.

    `what`: ``linear``, a ``router``, which no method quantizes, or ``experts``, of which the sizes are those of one.
    """

    module: str
    rows: int
    columns: int
    what: str = "linear"


@frozen
class Weights:
    """How many weights there are, how many of them are quantized, and their bytes with those of their scales."""

    count: int
    quantized: int
    bytes: float

    def __add__(self, other: Weights) -> Weights:
        """Both together."""
        return Weights(self.count + other.count, self.quantized + other.quantized, self.bytes + other.bytes)


NO_WEIGHTS = Weights(0, 0, 0.0)


@frozen
class Storage:
    """How the weights of a model lie in memory.

    `dtype` is the type of all that is not quantized, and of the KV cache; `products` that in which quantized weights
    are multiplied, the same where they are only stored in fewer bits. `kept`: modules that are left as they are;
    `size`: bytes of a quantized matrix of so many rows and columns.
    """

    dtype: str
    products: str
    kept: frozenset[str] = frozenset()
    size: Callable[[int, int], float] | None = None
    only: str = ""

    @property
    def item(self) -> int:
        """Bytes of an element of `dtype`."""
        return ITEM_BYTES[self.dtype]

    @classmethod
    def of(cls, config: Mapping[str, Any], dtype: str, matrices: Iterable[Matrix], tied: bool) -> Self:
        """The storage that a configuration describes; `tied`: the head is the embedding. Raises `UnknownModel`."""
        if dtype not in ITEM_BYTES:
            named = f"their type is {dtype}" if dtype else "the file names no dtype"
            raise UnknownModel(f"How many bytes its weights take is not known; {named}.")
        said = config.get("quantization_config")
        if not said or (isinstance(said, Mapping) and said.get("dequantize")):
            return cls(dtype, dtype)
        if not isinstance(said, Mapping):
            raise _unknown("what the configuration says of it is no object")
        method = _method(said)
        if method not in METHODS:
            raise _unknown(f"the method is {method or '(none named)'}; known are {', '.join(METHODS)}")
        matrices = tuple(matrices)
        names = list(dict.fromkeys(one.module for one in matrices))
        if method == "bitsandbytes" and any(one.what == "experts" for one in matrices):
            raise _unknown("whether bitsandbytes converts experts depends on its version")
        scheme = METHODS[method](said, dtype)
        head = {"lm_head"} if tied or scheme.skipped is None else set()
        kept = head | _kept(scheme, names) | {one.module for one in matrices if one.what == "router"}
        if scheme.only == "experts" and not any(one.what == "experts" for one in matrices):
            raise _unknown(f"{method} converts experts, and it has none")
        return cls(dtype, scheme.products, frozenset(kept), scheme.size, scheme.only)

    def matrix(self, one: Matrix) -> Weights:
        """Of a matrix."""
        count = one.rows * one.columns
        if self.size is None or one.module in self.kept or self.only not in ("", one.what):
            return Weights(count, 0, count * self.item)
        return Weights(count, count, self.size(one.rows, one.columns))

    def plain(self, count: int) -> Weights:
        """Of biases, norms and the like, which are not quantized."""
        return Weights(count, 0, count * self.item)


class _Scheme(NamedTuple):
    """What a method does: bytes of a matrix, the type of products, modules left out (None: the head alone).

    `exact`: these are names, or patterns after ``re:``; else patterns for the begin of a name, or its end. `only`: the
    one kind of matrix that is converted.
    """

    size: Callable[[int, int], float]
    products: str
    skipped: Sequence[Any] | None
    exact: bool = False
    only: str = ""


def _unknown(why: str) -> UnknownModel:
    return UnknownModel(f"The weights are quantized, and how many bytes they take is not known: {why}.")


def _method(said: Mapping[str, Any]) -> str:
    if said.get("quant_method") is None and (said.get("load_in_4bit") or said.get("load_in_8bit")):
        return "bitsandbytes"
    return str(said.get("quant_method") or "")


def _blocks(length: int, block: int) -> int:
    return -(-length // block)


def _number(said: Mapping[str, Any], name: str, known: Sequence[int]) -> int:
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value not in known:
        raise _unknown(f"its {name} is {value!r}")
    return value


def _group(said: Mapping[str, Any]) -> int | None:
    """Inputs that share a scale; None for all."""
    size = said.get("group_size")
    if size == -1 or size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise _unknown(f"its group_size is {size!r}")
    return size


def _fp8(said: Mapping[str, Any], dtype: str) -> _Scheme:
    """Blocks of float8 with a scale each; activations are quantized, too, so tensor cores multiply float8."""
    block = said.get("weight_block_size", (128, 128))
    sides = None if block is None else _sides(block, "weight_block_size")
    if said.get("expert_dtype", "fp8") != "fp8" or said.get("modules_to_convert"):
        raise _unknown("some modules have a type of their own")
    scale = 1 if said.get("scale_fmt") == "ue8m0" else 4

    def size(rows: int, columns: int) -> float:
        blocks = _blocks(rows, sides[0]) * _blocks(columns, sides[1]) if sides else 1
        return rows * columns + scale * blocks

    return _Scheme(size, _FP8, said.get("modules_to_not_convert", said.get("ignored_layers")))


def _mxfp4(said: Mapping[str, Any], dtype: str) -> _Scheme:
    """Experts in blocks of 32 four-bit floats with a scale of a byte; multiplied in the model's type."""

    def size(rows: int, columns: int) -> float:
        return rows * _blocks(columns, _BLOCK_MXFP4) * (_BLOCK_MXFP4 / 2 + 1)

    return _Scheme(size, dtype, said.get("modules_to_not_convert"), only="experts")


def _bitsandbytes(said: Mapping[str, Any], dtype: str) -> _Scheme:
    """Blocks of 64 four-bit weights with a scale each; or rows of int8 with a scale each, multiplied as int8."""
    skipped = said.get("llm_int8_skip_modules")
    if said.get("load_in_8bit"):
        return _Scheme(lambda rows, columns: rows * columns + 4 * rows, _INT8, skipped)
    if not said.get("load_in_4bit"):
        raise _unknown("it is neither of 4 bits nor of 8")
    nested = bool(said.get("bnb_4bit_use_double_quant"))

    def size(rows: int, columns: int) -> float:
        scales = _blocks(rows * columns, _BLOCK_4BIT)
        return rows * columns / 2 + (scales + 4 * _blocks(scales, _BLOCK_SCALES) if nested else 4 * scales)

    products = str(said.get("bnb_4bit_compute_dtype") or dtype).removeprefix("torch.")
    return _Scheme(size, products, skipped)


def _sides(block: Any, name: str) -> tuple[int, int]:
    """Rows and columns of a block that shares a scale."""
    whole = isinstance(block, (list, tuple)) and all(isinstance(x, int) and not isinstance(x, bool) for x in block)
    if not whole or len(block) != 2 or min(block) < 1:
        raise _unknown(f"its {name} is {block!r}")
    return block[0], block[1]


def _grouped(bits: int, group: int | None, scale: int, zeros: bool, order: bool) -> Callable[[int, int], float]:
    """Weights of so many bits; each group of inputs has a scale, perhaps a zero point, each input perhaps its group."""

    def size(rows: int, columns: int) -> float:
        groups = rows * (_blocks(columns, group) if group else 1)
        return rows * columns * bits / 8 + groups * scale + zeros * groups * bits / 8 + order * 4 * columns

    return size


def _gptq(said: Mapping[str, Any], dtype: str) -> _Scheme:
    """Groups of 2 to 8 bits with float16 scales, zero points unless symmetric; multiplied in the model's type."""
    if said.get("dynamic") or said.get("modules_in_block_to_quantize") or said.get("lm_head"):
        raise _unknown("some modules have rules of their own")
    bits, order = _number(said, "bits", (2, 3, 4, 8)), bool(said.get("desc_act"))
    size = _grouped(bits, _group(said), 2, not said.get("sym", True), order)
    return _Scheme(size, dtype, None)


def _awq(said: Mapping[str, Any], dtype: str) -> _Scheme:
    """Groups of four bits with float16 scales and zero points; multiplied in the model's type."""
    bits = _number(said, "bits", (4,))
    size = _grouped(bits, _group(said), 2, bool(said.get("zero_point", True)), False)
    return _Scheme(size, dtype, said.get("modules_to_not_convert"))


def _scaled(weights: Mapping[str, Any], bits: int, scale: int) -> Callable[[int, int], float]:
    """Bytes of a matrix of so many bits for each weight, with scales of `scale` bytes as `weights` says it."""
    strategy = weights.get("strategy")
    if strategy == "tensor":
        return lambda rows, columns: rows * columns * bits / 8 + scale
    if strategy == "block":
        high, wide = _sides(weights.get("block_structure"), "block_structure")
        return lambda rows, columns: rows * columns * bits / 8 + scale * _blocks(rows, high) * _blocks(columns, wide)
    if strategy not in ("channel", "group"):
        raise _unknown(f"the strategy of its scales is {strategy!r}")
    group = _group(weights) if strategy == "group" else None
    order = weights.get("actorder") in ("group", True)
    return _grouped(bits, group, scale, not weights.get("symmetric", True), order)


def _compressed(said: Mapping[str, Any], dtype: str) -> _Scheme:
    """One scheme for all linear layers: int4, int8 or float8, with scales by tensor, row, group or block."""
    groups = list((said.get("config_groups") or {}).values())
    sparse = (said.get("sparsity_config") or {}).get("format", "dense")
    if len(groups) != 1 or groups[0].get("targets") != ["Linear"] or sparse != "dense" or said.get("kv_cache_scheme"):
        raise _unknown("its compressed-tensors have more than one scheme for linear layers, sparsity, or a KV cache")
    if said.get("format") not in _PACKED:
        raise _unknown(f"the format of its compressed-tensors is {said.get('format')!r}")
    weights, inputs = groups[0].get("weights") or {}, groups[0].get("input_activations")
    kind = weights.get("type", "int")
    bits = _number(weights, "num_bits", (4, 8) if kind == "int" else (8,))
    products = dtype
    if inputs is not None:
        made = {("float", 8, "float", 8): _FP8, ("int", 8, "int", 8): _INT8}
        key = (kind, bits, inputs.get("type", "int"), inputs.get("num_bits"))
        if key not in made:
            raise _unknown(f"in what {bits}-bit weights are multiplied with {inputs.get('num_bits')}-bit inputs")
        products = made[key]
    return _Scheme(_scaled(weights, bits, ITEM_BYTES[dtype]), products, said.get("ignore") or (), exact=True)


#: How each known method stores weights, by ``quant_method``.
METHODS: dict[str, Callable[[Mapping[str, Any], str], _Scheme]] = {
    "fp8": _fp8, "mxfp4": _mxfp4, "bitsandbytes": _bitsandbytes, "gptq": _gptq, "awq": _awq,
    "compressed-tensors": _compressed,
}  # fmt: skip


def _kept(scheme: _Scheme, names: Sequence[str]) -> set[str]:
    """Those of the modules that a method is told to leave as they are. Raises `UnknownModel` for what names none."""
    kept: set[str] = set()
    if len(scheme.skipped or ()) > _MOST_SKIPPED:
        raise _unknown(f"it leaves out {len(scheme.skipped or ())} modules")
    for one in scheme.skipped or ():
        if not isinstance(one, str):
            raise _unknown(f"it leaves out {one!r}")
        found = _named(one, names, scheme.exact)
        if not found and not _NEVER.search(one):
            raise _unknown(f"it leaves out {one}, and which module that is is not known")
        kept |= found
    return kept


def _named(one: str, names: Sequence[str], exact: bool) -> set[str]:
    """The modules that a name or pattern stands for; see `_Scheme`."""
    if exact and not one.startswith("re:"):
        return {one} & set(names)
    if _PLAIN.fullmatch(one):
        return {name for name in names if f"{name}.".startswith(f"{one}.") or name.endswith(one)}
    pattern = rf"^(?:{one.removeprefix('re:')})" if exact else rf"^(?:{one})(?:(?<=\.)|(?=\.|$))"
    try:
        fits = first_found([pattern], list(names))
    except (re.error, PatternTooSlow) as error:
        raise _unknown(f"it leaves out {one}, which cannot be searched for") from error
    return {name for name, fit in zip(names, fits, strict=True) if fit == 0 or (not exact and name.endswith(one))}
