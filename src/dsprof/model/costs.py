"""What a model must do for its tokens, from its configuration alone: floating-point operations, and bytes moved.

A multiply-add counts as 2 operations, and only the products of matrices, convolutions and attention are counted:
no norm, activation, softmax or rotation. Bytes moved are the least that any program must: each weight that is
needed once in a forward, the KV cache read and written; activations are left out. So what follows from either, a
utilization, is a lower bound too. Of routed experts a token needs `chosen` of `experts`; tokens that are routed
evenly and independently need together, as is expected, ``experts * (1 - (1 - chosen / experts) ** tokens)``.

Latent attention (MLA, DeepSeek-V2 and V3) can be computed in two ways, and each count is of the way that needs less.
Operations: a token's keys and values are made from its latent once, and heads attend to these; with the weights
absorbed into queries and values, heads attend to latents, which takes 3.4 times as many for a pair of tokens in V3,
and transformers' class makes keys and values of all the context anew in each forward. Bytes: the cache holds latents,
as with absorbed weights and in transformers' class, and not the keys and values of each head.

Sources: Chowdhery et al., PaLM, 2022, appendix B, for what is counted; DeepSeek-V2, 2024, appendix C, for both ways of
latent attention; the classes of transformers 5.24 for the architectures (``models/deepseek_ocr2``, ``llama``,
``mistral``, ``qwen2``, ``qwen3``, ``mixtral``, ``qwen3_moe``, ``deepseek_v2``, ``deepseek_v3``, ``gpt_oss``). The tests
compare both counts with the real classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from attrs import evolve

from dsprof.arrays import Ints
from dsprof.arrays.statistics import Floats
from dsprof.model.weights import NO_WEIGHTS, Matrix, Storage, UnknownModel, Weights
from dsprof.records import frozen

#: Beyond these no model is believed, and int64 would not hold its operations.
_MOST_PARAMETERS, _MOST_LAYERS, _MOST_FLOPS = 4 * 10**12, 10_000, 2**62


class Cost(NamedTuple):
    """What forwards cost; all of shape ``(n,)``.

    `flops`: operations; `quantized`: those of them with quantized weights; `bytes`: of weights and KV cache, to move.
    """

    flops: Ints
    quantized: Ints
    bytes: Floats

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        """Both together."""
        return Cost(self.flops + other.flops, self.quantized + other.quantized, self.bytes + other.bytes)


@frozen
class View:
    """Pictures of one size that the vision tower is given in a request."""

    count: int
    height: int
    width: int


@frozen
class Layer:
    """A transformer layer: attention, and a feed-forward part that is dense, routed, or both.

    `pair`: multiply-adds of a token that attends to one, for its score and its value; `kept`: elements of a token in
    the KV cache. `linear`: weights that every token is multiplied with (attention, dense part, shared experts, router);
    `experts` routed experts of `expert` weights each, of which a token takes `chosen`; `extra`, `expert_extra`: weights
    that are read and multiplied with no matrix (norms, biases, sinks), of all and of each expert. `window`: how many
    tokens attention reaches back, 0 for all.
    """

    pair: int
    kept: int
    linear: Weights
    extra: Weights
    experts: int = 0
    chosen: int = 0
    expert: Weights = NO_WEIGHTS
    expert_extra: Weights = NO_WEIGHTS
    window: int = 0

    @property
    def parameters(self) -> int:
        """All its weights."""
        return self.linear.count + self.extra.count + self.experts * (self.expert.count + self.expert_extra.count)

    def products(self, tokens: Ints) -> Ints:
        """Operations of the products of `tokens` tokens with weights."""
        return 2 * tokens * (self.linear.count + self.chosen * self.expert.count)

    def quantized(self, tokens: Ints) -> Ints:
        """Those of them with weights that are quantized."""
        return 2 * tokens * (self.linear.quantized + self.chosen * self.expert.quantized)

    def attention(self, pairs: Ints) -> Ints:
        """Operations of the scores and of the weighted values, for that many pairs of tokens."""
        return 2 * pairs * self.pair

    def touched(self, tokens: Ints) -> Floats:
        """Bytes of the weights that `tokens` tokens need, each once; of the experts as expected under even routing."""
        expert = self.expert.bytes + self.expert_extra.bytes
        return self.linear.bytes + self.extra.bytes + expert * distinct_experts(tokens, self.experts, self.chosen)

    def cache(self, new: Ints, context: Ints) -> Ints:
        """Elements of one sequence in the cache: those of the context read, those of the new tokens written."""
        reach = np.minimum(context, self.window) if self.window else context
        return self.kept * (reach + new)


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
    """A language model: `layers`, an embedding of `vocabulary` x `width`, a `head` as large, `extra` for the last norm.

    `tied`: the head is the embedding; `item`: bytes of an element that is not quantized, as of the cache. The head runs
    for one position of a sequence in each forward, as in ``generate()``, which keeps no other logits.
    """

    layers: tuple[Layer, ...]
    width: int
    head: Weights
    tied: bool
    extra: Weights
    item: int

    @property
    def parameters(self) -> int:
        """All its weights, the embedding among them."""
        head = self.head.count * (1 if self.tied else 2)
        return sum(layer.parameters for layer in self.layers) + head + self.extra.count

    def forward(self, new: Ints, context: Ints, batch: Ints) -> Cost:
        """Forwards of `batch` sequences with `new` tokens each after `context` in the cache; all of shape ``(n,)``."""
        new, context, batch = (np.atleast_1d(np.asarray(x, np.int64)) for x in (new, context, batch))
        tokens = new * batch
        flops, quantized = 2 * batch * self.head.count, 2 * batch * self.head.quantized
        moved = np.asarray(self.head.bytes + self.extra.bytes + tokens * self.width * self.item, np.float64)
        for layer, times in Counter(self.layers).items():
            pairs = causal_pairs(new, context, layer.window)
            flops = flops + times * (layer.products(tokens) + batch * layer.attention(pairs))
            quantized = quantized + times * layer.quantized(tokens)
            moved = moved + times * (layer.touched(tokens) + self.item * batch * layer.cache(new, context))
        return Cost(flops, quantized, moved)


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
    item: int

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
        """Operations and bytes for the pictures of a request; the weights count once, however many there are.

        Raises `UnknownModel` for pictures that nobody reads.
        """
        views = tuple(views)
        flops = sum(view.count * self.flops(view.height, view.width) for view in views)
        if flops > _MOST_FLOPS:
            raise UnknownModel(f"The pictures of a request would take {flops:.2g} operations, which cannot be.")
        return flops, self.item * self.parameters if any(view.count for view in views) else 0


@frozen
class Model:
    """A model whose costs are known: its language model, and the vision tower where it has one.

    `products`: the type in which quantized weights are multiplied; that of all others where none are.
    """

    decoder: Decoder
    products: str
    vision: Vision | None = None

    @property
    def parameters(self) -> int:
        """All its weights; the same number as the real model has."""
        return self.decoder.parameters + (self.vision.parameters if self.vision else 0)


def model_of(config: Mapping[str, Any], dtype: str) -> Model:
    """The model that a configuration describes, as ``config.to_dict()`` or ``config.json`` gives it.

    `dtype`: the type of the weights that are not quantized. Raises `UnknownModel` for an architecture that is not one
    of `KNOWN`, for weights of which the bytes cannot be told, and for a configuration that lacks something.
    """
    kind = config.get("model_type")
    if kind not in KNOWN:
        raise UnknownModel(f"The costs of the architecture {kind or '(none named)'} are not known; known are "
                           f"{', '.join(KNOWN)}.")  # fmt: skip
    try:
        return _model(config, kind, dtype)
    except UnknownModel:
        raise
    except KeyError as error:
        raise UnknownModel(f"The configuration of the {kind} lacks {error.args[0]}.") from error
    except (AttributeError, TypeError, ArithmeticError, ValueError, IndexError) as error:
        raise UnknownModel(f"The configuration of the {kind} holds a value that cannot be ({error}).") from error


def _model(config: Mapping[str, Any], kind: str, dtype: str) -> Model:
    if kind == "deepseek_ocr2":
        text, quantized = config["text_config"], config.get("quantization_config")
        if quantized:
            raise UnknownModel("The weights of a model with a vision tower are quantized, and which is not known.")
        decoder, storage = _decoder(text, "deepseek_ocr2_text", dtype)
        made = Model(decoder, dtype, _vision(config["vision_config"], _whole(text["hidden_size"]), storage))
    else:
        decoder, storage = _decoder(config, kind, dtype)
        made = Model(decoder, storage.products)
    if made.parameters > _MOST_PARAMETERS:
        raise ValueError(f"it would have {made.parameters:.2g} parameters")
    return made


_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "deepseek_ocr2_text", "deepseek_v2",
             "deepseek_v3", "gpt_oss")  # fmt: skip
#: Those of them with latent attention.
_LATENT = ("deepseek_v2", "deepseek_v3")
#: Architectures whose costs are known, by ``model_type``.
KNOWN = ("deepseek_ocr2", *_DECODERS)


def _decoder(config: Mapping[str, Any], kind: str, dtype: str) -> tuple[Decoder, Storage]:
    width, parts = _whole(config["hidden_size"]), _parts(config, kind)
    head = Matrix("lm_head", _whole(config["vocab_size"]), width)
    tied = bool(config.get("tie_word_embeddings"))
    storage = Storage.of(config, dtype, (head, *(one for part in parts for one in part.matrices)), tied)
    layers = tuple(part.stored(storage) for part in parts)
    return Decoder(layers, width, storage.matrix(head), tied, storage.plain(width), storage.item), storage


def _parts(config: Mapping[str, Any], kind: str) -> tuple[_Parts, ...]:
    count = _whole(config["num_hidden_layers"])
    if count > _MOST_LAYERS:
        raise ValueError(f"{count} layers")
    attention = _latent_attention if kind in _LATENT else _attention
    return tuple(attention(config, kind, index).with_part(_feed_forward(config, kind, index)) for index in range(count))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no whole number")
    return value


@frozen
class _Parts:
    """A layer by its matrices, those of an expert among them, whatever type they have; else as in `Layer`."""

    matrices: tuple[Matrix, ...]
    extra: int
    pair: int = 0
    kept: int = 0
    window: int = 0
    experts: int = 0
    chosen: int = 0
    expert_extra: int = 0

    def with_part(self, part: _Parts) -> _Parts:
        """The layer of an attention and the feed-forward part after it."""
        return evolve(part, matrices=self.matrices + part.matrices, extra=self.extra + part.extra, pair=self.pair,
                      kept=self.kept, window=self.window)  # fmt: skip

    def stored(self, storage: Storage) -> Layer:
        """The layer with its weights as they lie in memory."""
        linear = expert = NO_WEIGHTS
        for one in self.matrices:
            if one.what == "experts":
                expert += storage.matrix(one)
            else:
                linear += storage.matrix(one)
        return Layer(self.pair, self.kept, linear, storage.plain(self.extra), self.experts, self.chosen, expert,
                     storage.plain(self.expert_extra), self.window)  # fmt: skip


def _attention(config: Mapping[str, Any], kind: str, index: int) -> _Parts:
    """Grouped-query attention, and the two norms of a layer."""
    width, heads = _whole(config["hidden_size"]), _whole(config["num_attention_heads"])
    kv_heads = _whole(config.get("num_key_value_heads") or heads)
    head_dim = _whole(config.get("head_dim") or width // heads)
    inner, outer = heads * head_dim, kv_heads * head_dim
    own = f"model.layers.{index}.self_attn"
    matrices = (Matrix(f"{own}.q_proj", inner, width), Matrix(f"{own}.k_proj", outer, width),
                Matrix(f"{own}.v_proj", outer, width), Matrix(f"{own}.o_proj", width, inner))  # fmt: skip
    extra = 2 * width + _biases(config, kind, width, inner, outer)
    if kind in ("qwen3", "qwen3_moe"):
        extra += 2 * head_dim  # norms of queries and keys
    if kind == "gpt_oss":
        extra += heads  # what a head attends to beside all tokens
    return _Parts(matrices, extra, 2 * inner, 2 * outer, _window(config, kind, index))


def _latent_attention(config: Mapping[str, Any], kind: str, index: int) -> _Parts:
    """Attention whose keys and values come from a latent, and keys from a rotated part that all heads share."""
    width, heads = _whole(config["hidden_size"]), _whole(config["num_attention_heads"])
    rotated, plain = _whole(config["qk_rope_head_dim"]), _whole(config["qk_nope_head_dim"])
    latent, value, queries = _whole(config["kv_lora_rank"]), _whole(config["v_head_dim"]), config["q_lora_rank"]
    own, bias = f"model.layers.{index}.self_attn", bool(config.get("attention_bias"))
    extra = 2 * width + latent + bias * (latent + rotated + width)
    if queries is None:
        asked = [Matrix(f"{own}.q_proj", heads * (plain + rotated), width)]
    else:
        asked = [Matrix(f"{own}.q_a_proj", _whole(queries), width),
                 Matrix(f"{own}.q_b_proj", heads * (plain + rotated), queries)]  # fmt: skip
        extra += (1 + bias) * queries
    matrices = (*asked, Matrix(f"{own}.kv_a_proj_with_mqa", latent + rotated, width),
                Matrix(f"{own}.kv_b_proj", heads * (plain + value), latent),
                Matrix(f"{own}.o_proj", width, heads * value))  # fmt: skip
    return _Parts(matrices, extra, heads * (plain + rotated + value), latent + rotated)


def _biases(config: Mapping[str, Any], kind: str, width: int, inner: int, outer: int) -> int:
    """Biases of the attention's projections: of queries, keys and values always in qwen2, elsewhere as configured."""
    if kind in ("qwen2", "deepseek_ocr2_encoder"):
        return inner + 2 * outer
    return inner + 2 * outer + width if config.get("attention_bias") else 0


def _feed_forward(config: Mapping[str, Any], kind: str, index: int) -> _Parts:
    """A gated feed-forward part: three matrices for each expert, for the shared ones, or for all tokens."""
    bias, width, own = bool(config.get("mlp_bias")), _whole(config["hidden_size"]), f"model.layers.{index}.mlp"
    if not _is_routed(config, kind, index):
        inner = _whole(config["intermediate_size"])
        return _Parts(_gated(own, width, inner), bias * (2 * inner + width))
    names = {"mixtral": ("num_local_experts",), "gpt_oss": ("num_local_experts", "num_experts"),
             "qwen3_moe": ("num_experts", "num_local_experts")}  # fmt: skip
    experts = _whole(_first(config, names.get(kind, ("n_routed_experts",))))
    inner = _whole(config["intermediate_size" if kind in ("mixtral", "gpt_oss") else "moe_intermediate_size"])
    shared = inner * _whole(config.get("n_shared_experts") or 0)
    router = Matrix(f"{own}.router" if kind == "gpt_oss" else f"{own}.gate", experts, width, "router")
    expert = (Matrix(f"{own}.experts", inner, width, "experts"), Matrix(f"{own}.experts", inner, width, "experts"),
              Matrix(f"{own}.experts", width, inner, "experts"))  # fmt: skip
    dense = _gated(f"{own}.shared_experts", width, shared) if shared else ()
    biased = kind == "gpt_oss"
    return _Parts((router, *expert, *dense), bias * (2 * shared + width) + biased * experts, experts=experts,
                  chosen=_whole(config["num_experts_per_tok"]), expert_extra=biased * (2 * inner + width))  # fmt: skip


def _gated(module: str, width: int, inner: int) -> tuple[Matrix, ...]:
    return (Matrix(f"{module}.gate_proj", inner, width), Matrix(f"{module}.up_proj", inner, width),
            Matrix(f"{module}.down_proj", width, inner))  # fmt: skip


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """What stands under the first of several names for one thing."""
    return config[next((name for name in names if name in config), names[0])]


def _is_routed(config: Mapping[str, Any], kind: str, index: int) -> bool:
    if kind in ("mixtral", "gpt_oss"):
        return True
    if kind in _LATENT:
        return index >= _whole(config["first_k_dense_replace"])
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
    if kind == "gpt_oss" and not types:
        return _whole(window) if index % 2 == 0 else 0
    if types and types[index] != "sliding_attention":
        return 0
    if not types and index < _whole(config.get("max_window_layers") or 0):
        return 0
    return _whole(window)


def _vision(config: Mapping[str, Any], text_width: int, storage: Storage) -> Vision:
    encoder = config["encoder_config"]
    width = _whole(encoder["hidden_size"])
    layers = tuple(part.stored(storage) for part in _parts(encoder, "deepseek_ocr2_encoder"))
    extra = width + sum(Vision.QUERIES) * width + 2 * text_width
    return Vision(_sam(config["sam_config"]), layers, width * text_width, extra, storage.item)


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
