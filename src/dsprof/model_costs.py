"""What a model must do for its tokens, from its configuration alone: floating-point operations, and elements moved.

A multiply-add counts as 2 operations, and only the products of matrices, convolutions and attention are counted:
no norm, activation, softmax or rotation. Elements moved are the least that any program must: each weight that is
needed once in a forward, the KV cache read and written; activations are left out. So what follows from either, a
utilization, is a lower bound too. Of routed experts a token needs `chosen` of `experts`; tokens that are routed
evenly and independently need together, as is expected, ``experts * (1 - (1 - chosen / experts) ** tokens)``.

Sources: Chowdhery et al., PaLM, 2022, appendix B, for what is counted; the classes of transformers 5.23 for the
architectures (``models/deepseek_ocr2``, ``llama``, ``mistral``, ``qwen2``, ``qwen3``, ``mixtral``, ``qwen3_moe``).
The tests compare both counts with the real classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from attrs import frozen

from dsprof.arrays import Ints
from dsprof.arrays.statistics import Floats

#: Bytes of an element, by the names that a configuration gives to the types of weights.
ITEM_BYTES = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip


#: Beyond these no model is believed, and int64 would not hold its operations.
_MOST_PARAMETERS, _MOST_LAYERS, _MOST_FLOPS = 4 * 10**12, 10_000, 2**62


class UnknownModel(ValueError):
    """A configuration whose costs cannot be told; the message is a sentence."""


class Cost(NamedTuple):
    """What forwards cost: `flops` in operations, `elements` of weights and KV cache to move; both of shape ``(n,)``."""

    flops: Ints
    elements: Floats

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        """Both together."""
        return Cost(self.flops + other.flops, self.elements + other.elements)


@frozen
class View:
    """Pictures of one size that the vision tower is given in a request."""

    count: int
    height: int
    width: int


@frozen
class Layer:
    """A transformer layer: attention, and a feed-forward part that is dense, routed, or both.

    `linear`: weights that every token is multiplied with (attention, dense part, shared experts, router);
    `experts` routed experts of `expert` weights each, of which a token takes `chosen`; `extra`: weights that are
    read and multiplied with no matrix (norms, biases). `window`: how many tokens attention reaches back, 0 for all.
    """

    heads: int
    kv_heads: int
    head_dim: int
    linear: int
    extra: int
    experts: int = 0
    chosen: int = 0
    expert: int = 0
    window: int = 0

    @property
    def parameters(self) -> int:
        """All its weights."""
        return self.linear + self.extra + self.experts * self.expert

    def products(self, tokens: Ints) -> Ints:
        """Operations of the products of `tokens` tokens with weights."""
        return 2 * tokens * (self.linear + self.chosen * self.expert)

    def attention(self, pairs: Ints) -> Ints:
        """Operations of the scores and of the weighted values, for that many pairs of tokens."""
        return 4 * pairs * (self.heads * self.head_dim)

    def touched(self, tokens: Ints) -> Floats:
        """Weights that `tokens` tokens need, each counted once; the experts as expected under even routing."""
        return self.linear + self.extra + self.expert * distinct_experts(tokens, self.experts, self.chosen)

    def cache(self, new: Ints, context: Ints) -> Ints:
        """Elements of one sequence's keys and values: those of the context read, those of the new tokens written."""
        reach = np.minimum(context, self.window) if self.window else context
        return 2 * self.kv_heads * self.head_dim * (reach + new)


def distinct_experts(tokens: Ints, experts: int, chosen: int) -> Floats:
    """How many of the experts `tokens` tokens are expected to need, where all are equally likely.

    >>> distinct_experts(np.array([1, 2, 1000]), 64, 6).round(2).tolist()
    [6.0, 11.44, 64.0]
    """
    if not experts:
        return np.zeros(np.shape(tokens))
    none: Floats = (1.0 - chosen / experts) ** np.asarray(tokens, np.float64)
    return experts * (1.0 - none)


def causal_pairs(new: Ints, context: Ints, window: int = 0) -> Ints:
    """Pairs of a new token and one it attends to: the context, the new ones up to itself, at most `window` of them.

    >>> causal_pairs(np.array([1, 3]), np.array([10, 10])).tolist()
    [11, 36]
    >>> causal_pairs(np.array([3]), np.array([2]), window=4).tolist()
    [11]
    """
    pairs: Ints = new * context + new * (new + 1) // 2
    if not window:
        return pairs
    # Token i of the new reaches context + i tokens: what lies beyond the window is a run of 1, 2, 3, …
    last = np.maximum(context + new - window, 0)
    first = np.maximum(context - window, 0)
    beyond: Ints = last * (last + 1) // 2 - first * (first + 1) // 2
    return pairs - beyond


@frozen
class Decoder:
    """A language model: `layers`, a head of `vocabulary` x `width`, `extra` for the last norm.

    The head runs for one position of a sequence in each forward, as in ``generate()``, which keeps no other logits.
    """

    layers: tuple[Layer, ...]
    width: int
    vocabulary: int
    tied: bool
    extra: int

    @property
    def parameters(self) -> int:
        """All its weights, the embedding among them."""
        head = self.vocabulary * self.width
        return sum(layer.parameters for layer in self.layers) + head * (1 if self.tied else 2) + self.extra

    def forward(self, new: Ints, context: Ints, batch: Ints) -> Cost:
        """Forwards of `batch` sequences with `new` tokens each after `context` in the cache; all of shape ``(n,)``."""
        new, context, batch = (np.atleast_1d(np.asarray(x, np.int64)) for x in (new, context, batch))
        tokens, head = new * batch, self.vocabulary * self.width
        flops = 2 * batch * head
        elements = np.asarray(head + self.extra + tokens * self.width, np.float64)
        for layer, times in Counter(self.layers).items():
            pairs = causal_pairs(new, context, layer.window)
            flops = flops + times * (layer.products(tokens) + batch * layer.attention(pairs))
            elements = elements + times * (layer.touched(tokens) + batch * layer.cache(new, context))
        return Cost(flops, elements)


@frozen
class Sam:
    """The SAM image encoder of DeepSeek-OCR-2: patches, window and global attention, neck, two halving convolutions.

    Windows are padded to full ones, as the class does. The relative positions are two more products per token.
    """

    width: int
    channels: int
    patch: int
    grid: int
    window: int
    windowed: int
    wide: int
    mlp: int
    neck: int
    halvings: tuple[int, int]
    qkv_bias: bool
    positions: bool
    relative: bool
    head_dim: int

    @property
    def parameters(self) -> int:
        """All its weights."""
        inputs = self.channels * self.patch**2 * self.width + self.width + self.positions * self.grid**2 * self.width
        layer = (
            4 * self.width**2 + (3 * self.qkv_bias + 1) * self.width + 4 * self.width
            + 2 * self.width * self.mlp + self.mlp + self.width
        )  # fmt: skip
        sides = self.windowed * self.window + self.wide * self.grid
        relative = self.relative * 2 * self.head_dim * (2 * sides - self.windowed - self.wide)
        first, second = self.halvings
        neck = self.width * self.neck + 9 * self.neck**2 + 4 * self.neck
        return (self.windowed + self.wide) * layer + inputs + relative + neck + 9 * first * (self.neck + second)

    def patches(self, height: int, width: int) -> int:
        """How many patches it gives for a picture: each side by the patch, halved twice, rounded up."""
        rows, columns = (-(-(side // self.patch) // 4) for side in (height, width))
        return rows * columns

    def flops(self, height: int, width: int) -> int:
        """Operations for one picture."""
        rows, columns = height // self.patch, width // self.patch
        tokens = rows * columns
        convolutions = self.channels * self.patch**2 * self.width * tokens
        convolutions += tokens * (self.width * self.neck + 9 * self.neck**2)
        first, second = self.halvings
        half = -(-rows // 2) * -(-columns // 2)
        convolutions += 9 * first * (self.neck * half + second * self.patches(height, width))
        mlp = (self.windowed + self.wide) * tokens * 2 * self.width * self.mlp
        windows = -(-rows // self.window) * -(-columns // self.window) if self.window else 0
        local = self.windowed * windows * self._attention(self.window, self.window)
        return 2 * (convolutions + mlp + local + self.wide * self._attention(rows, columns))

    def _attention(self, rows: int, columns: int) -> int:
        """Multiply-adds of an attention over a field: projections, scores and values, relative positions."""
        tokens = rows * columns
        relative = self.relative * tokens * self.width * (rows + columns)
        return tokens * 4 * self.width**2 + 2 * tokens**2 * self.width + relative


@frozen
class Vision:
    """The vision tower of DeepSeek-OCR-2 with its projector: SAM, then an encoder over patches and learned queries.

    Patches see all patches, queries see all patches and the queries up to themselves. `extra`: weights that no
    layer has: queries, the last norm, the projector's bias, the separator of views.
    """

    sam: Sam
    encoder: tuple[Layer, ...]
    projector: int
    extra: int

    #: Queries of the class for pictures of 768 and of 1024 pixels; the smaller serve where there are no more patches.
    QUERIES = (144, 256)

    @property
    def parameters(self) -> int:
        """All its weights."""
        layers = sum(layer.parameters for layer in self.encoder)
        return self.sam.parameters + layers + self.projector + self.extra

    def flops(self, height: int, width: int) -> int:
        """Operations for one picture."""
        patches = self.sam.patches(height, width)
        queries = self.QUERIES[0] if patches <= self.QUERIES[0] else self.QUERIES[1]
        tokens = np.asarray(patches + queries)
        pairs = np.asarray(patches**2 + queries * patches + queries * (queries + 1) // 2)
        layers = sum(int(layer.products(tokens) + layer.attention(pairs)) for layer in self.encoder)
        return self.sam.flops(height, width) + layers + 2 * queries * self.projector

    def look(self, views: Iterable[View]) -> tuple[int, int]:
        """Operations and elements for the pictures of a request; the weights count once, however many there are.

        Raises `UnknownModel` for pictures that nobody reads.
        """
        views = tuple(views)
        flops = sum(view.count * self.flops(view.height, view.width) for view in views)
        if flops > _MOST_FLOPS:
            raise UnknownModel(f"The pictures of a request would take {flops:.2g} operations, which cannot be.")
        return flops, self.parameters if any(view.count for view in views) else 0


@frozen
class Model:
    """A model whose costs are known: its language model, and the vision tower where it has one."""

    decoder: Decoder
    vision: Vision | None = None

    @property
    def parameters(self) -> int:
        """All its weights; the same number as the real model has."""
        return self.decoder.parameters + (self.vision.parameters if self.vision else 0)


def model_of(config: Mapping[str, Any]) -> Model:
    """The model that a configuration describes, as ``config.to_dict()`` or ``config.json`` gives it.

    Raises `UnknownModel` for an architecture that is not one of `KNOWN`, for quantized weights, and for a
    configuration that lacks something.
    """
    kind = config.get("model_type")
    if kind not in KNOWN:
        raise UnknownModel(f"The costs of the architecture {kind or '(none named)'} are not known; known are "
                           f"{', '.join(KNOWN)}.")  # fmt: skip
    if config.get("quantization_config"):
        raise UnknownModel("The weights are quantized, and how many bytes they take is not known.")
    try:
        return _model(config, kind)
    except KeyError as error:
        raise UnknownModel(f"The configuration of the {kind} lacks {error.args[0]}.") from error
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UnknownModel(f"The configuration of the {kind} holds a value that cannot be ({error}).") from error


def _model(config: Mapping[str, Any], kind: str) -> Model:
    if kind == "deepseek_ocr2":
        text = config["text_config"]
        made = Model(
            _decoder(text, "deepseek_ocr2_text"), _vision(config["vision_config"], _whole(text["hidden_size"]))
        )
    else:
        made = Model(_decoder(config, kind))
    if made.parameters > _MOST_PARAMETERS:
        raise ValueError(f"it would have {made.parameters:.2g} parameters")
    return made


_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "deepseek_ocr2_text")
#: Architectures whose costs are known, by ``model_type``.
KNOWN = ("deepseek_ocr2", *_DECODERS)


def _decoder(config: Mapping[str, Any], kind: str) -> Decoder:
    width, layers = _whole(config["hidden_size"]), _layers(config, kind)
    return Decoder(layers, width, _whole(config["vocab_size"]), bool(config.get("tie_word_embeddings")), extra=width)


def _layers(config: Mapping[str, Any], kind: str) -> tuple[Layer, ...]:
    count = _whole(config["num_hidden_layers"])
    if count > _MOST_LAYERS:
        raise ValueError(f"{count} layers")
    return tuple(_layer(config, kind, index) for index in range(count))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _layer(config: Mapping[str, Any], kind: str, index: int) -> Layer:
    width, heads = _whole(config["hidden_size"]), _whole(config["num_attention_heads"])
    kv_heads = _whole(config.get("num_key_value_heads") or heads)
    head_dim = _whole(config.get("head_dim") or width // heads)
    inner, outer = heads * head_dim, kv_heads * head_dim
    attention = 2 * width * inner + 2 * width * outer
    extra = 2 * width + _biases(config, kind, width, inner, outer)
    if kind in ("qwen3", "qwen3_moe"):
        extra += 2 * head_dim  # norms of queries and keys
    part, window = _feed_forward(config, kind, index, width), _window(config, kind, index)
    return Layer(heads, kv_heads, head_dim, attention + part.linear, extra + part.biases, part.experts, part.chosen,
                 part.expert, window)  # fmt: skip


def _biases(config: Mapping[str, Any], kind: str, width: int, inner: int, outer: int) -> int:
    """Biases of the attention's projections: of queries, keys and values always in qwen2, elsewhere as configured."""
    if kind in ("qwen2", "deepseek_ocr2_encoder"):
        return inner + 2 * outer
    return inner + 2 * outer + width if config.get("attention_bias") else 0


class _FeedForward(NamedTuple):
    """Weights of a layer's feed-forward part, as in `Layer`."""

    linear: int
    biases: int = 0
    experts: int = 0
    chosen: int = 0
    expert: int = 0


def _feed_forward(config: Mapping[str, Any], kind: str, index: int, width: int) -> _FeedForward:
    """Of a gated feed-forward part: three matrices for each expert, for the shared ones, or for all tokens."""
    bias = bool(config.get("mlp_bias"))
    if not _is_routed(config, kind, index):
        inner = _whole(config["intermediate_size"])
        return _FeedForward(3 * width * inner, bias * (2 * inner + width))
    names = {"mixtral": ("num_local_experts",), "qwen3_moe": ("num_experts", "num_local_experts")}
    experts = _whole(_first(config, names.get(kind, ("n_routed_experts",))))
    inner = _whole(config["intermediate_size" if kind == "mixtral" else "moe_intermediate_size"])
    shared = inner * _whole(config.get("n_shared_experts") or 0)
    router, biases = experts * width, bias * (2 * shared + width)
    return _FeedForward(router + 3 * width * shared, biases, experts, _whole(config["num_experts_per_tok"]),
                        3 * width * inner)  # fmt: skip


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """What stands under the first of several names for one thing."""
    return config[next((name for name in names if name in config), names[0])]


def _is_routed(config: Mapping[str, Any], kind: str, index: int) -> bool:
    if kind == "mixtral":
        return True
    if kind == "deepseek_ocr2_text":
        return bool(config["mlp_layer_types"][index] == "sparse")
    if kind == "qwen3_moe":
        every = _whole(config["decoder_sparse_step"])
        return index not in (config.get("mlp_only_layers") or ()) and (index + 1) % every == 0
    return False


def _window(config: Mapping[str, Any], kind: str, index: int) -> int:
    """How far a layer's attention reaches back; 0 for all the way."""
    window, types = config.get("sliding_window"), config.get("layer_types")
    if not window or kind == "llama" or (kind.startswith("qwen") and not config.get("use_sliding_window")):
        return 0
    if types and types[index] != "sliding_attention":
        return 0
    if not types and index < _whole(config.get("max_window_layers") or 0):
        return 0
    return _whole(window)


def _vision(config: Mapping[str, Any], text_width: int) -> Vision:
    encoder = config["encoder_config"]
    width = _whole(encoder["hidden_size"])
    layers = _layers(encoder, "deepseek_ocr2_encoder")
    extra = width + sum(Vision.QUERIES) * width + 2 * text_width
    return Vision(_sam(config["sam_config"]), layers, width * text_width, extra)


def _sam(config: Mapping[str, Any]) -> Sam:
    width, layers = _whole(config["hidden_size"]), _whole(config["num_hidden_layers"])
    wide = len({index for index in config["global_attn_indexes"] if 0 <= index < layers})
    patch = _whole(config["patch_size"])
    first, second = map(_whole, config["downsample_channels"])
    return Sam(
        width=width, channels=_whole(config["num_channels"]), patch=patch, grid=_whole(config["image_size"]) // patch,
        window=_whole(config["window_size"]), windowed=layers - wide, wide=wide, mlp=_whole(config["mlp_dim"]),
        neck=_whole(config["output_channels"]), halvings=(first, second), qkv_bias=bool(config["qkv_bias"]),
        positions=bool(config["use_abs_pos"]), relative=bool(config["use_rel_pos"]),
        head_dim=width // _whole(config["num_attention_heads"]),
    )  # fmt: skip
