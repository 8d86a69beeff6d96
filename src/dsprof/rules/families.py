"""Kernel families: what a kernel does, by its name; ordered rules, the first that fits counts.

The rules go by what a name says and guess nothing: the ``pow``, ``mean`` and ``rsqrt`` of an RMSNorm that is written
in PyTorch are elementwise and reduce kernels. PyTorch's templates name their functor inside, so the rules of functors
stand before those of templates. What no rule fits is ``other``. Names are searched demangled, by case.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsprof.errors import RulesUnreadable
from dsprof.ground.documents import text_of
from dsprof.ground.patterns import first_found
from dsprof.records import frozen

OTHER = "other"
#: Rules are searched for in so many characters of a name: what a kernel does stands at its head, and templates behind.
LOOKED_AT = 1 << 13
#: Every family with what is in it.
FAMILIES = {
    "gemm": "matrix products, dense, grouped or quantized, and their split-K sums",
    "gemv": "products with a vector, and dot products",
    "attention": "fused attention, and the merging of its parts",
    "norm": "fused layer, RMS, group and batch norms",
    "rope": "rotary position embedding",
    "activation": "GELU, SiLU, sigmoid and their like, with or without the gate",
    "elementwise": "arithmetic on each element, also fused",
    "copy": "copies, casts, quantization, transposition",
    "cat": "concatenation and splitting",
    "gather": "gather, scatter, embedding, writes to the KV cache",
    "moe": "routing to experts: gates, alignment, permutation, the sum of experts",
    "topk": "top-k, sort, scan, histogram, compaction",
    "reduce": "sum, mean, max, argmax",
    "softmax": "softmax on its own",
    "sampling": "random numbers, and picking a token by them",
    "conv": "convolution, pooling, interpolation",
    "memory": "fills",
    "communication": "between GPUs",
    "graph": "a CUDA graph traced as a whole",
    OTHER: "what no rule fits",
}


@frozen
class Rule:
    """Kernels whose demangled name holds the regular expression `pattern` are of `family`, like `example`."""

    family: str
    pattern: str
    example: str = ""


#: In order. Examples are names as Nsight Systems demangles them, long template arguments cut with an ellipsis.
RULES = (
    Rule("graph", r"^\(CUDA graph\)$", "(CUDA graph)"),
    Rule("communication", r"^nccl\w*Kernel",
         "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<(unsigned long)4096>)"),
    Rule("communication", r"cross_device_reduce|multimem_|nvshmem|\bdeep_ep::",
         "void vllm::cross_device_reduce_1stage<__nv_bfloat16, (int)2>(vllm::RankData *, …)"),
    Rule("communication", r"[Aa]ll_?[Tt]o_?[Aa]ll", "void tensorrt_llm::kernels::mnnvl::moeAllToAllKernel<…>(…)"),
    Rule("communication", r"[Aa]ll_?[Rr]educe|[Aa]ll_?[Gg]ather|[Rr]educe_?[Ss]catter",
         "void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<…>(…)"),
    # torch.compile: the kind stands first, and what was fused behind it, which may name its neighbours too
    Rule("copy", r"^triton_poi_fused_(_to_copy|clone|permute|view|transpose|_)*_\d+$", "triton_poi_fused__to_copy_0"),
    Rule("cat", r"^triton_poi_fused_(cat|stack|split)_\d+$", "triton_poi_fused_cat_3"),
    Rule("elementwise", r"^triton_(poi|for)_fused", "triton_poi_fused_mul_silu_1"),
    Rule("norm", r"^triton_(red|per)_fused.*(layer|rms|group|batch)_norm",
         "triton_per_fused_add_native_layer_norm_2"),
    Rule("softmax", r"^triton_(red|per)_fused.*softmax", "triton_per_fused__softmax_5"),
    Rule("reduce", r"^triton_(red|per)_fused", "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0"),
    # fused attention holds products and softmax, and convolutions are products to their authors: both before gemm
    Rule("attention", r"\bflash::|flash_(attn|fwd|bwd)|Flash_?[Aa]ttn",
         "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<(int)128, (int)128, (int)64, (int)4, …>, …>"
         "(flash::Flash_fwd_params)"),
    Rule("attention", r"_sdpa_|fmha",
         "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64_4x1x1_cga1x1x1_kernel0_0"),
    Rule("rope", r"[Rr]otary|\brope_|_rope\b",
         "void vllm::rotary_embedding_kernel<c10::BFloat16, (bool)1>(const long *, T1 *, T1 *, const T1 *, …)"),
    Rule("attention", r"[Aa]ttention",
         "void vllm::paged_attention_v1_kernel<__nv_bfloat16, __nv_bfloat16, (int)128, (int)16, (int)128, …>(…)"),
    Rule("attention", r"merge_attn_states|MergeStates|_attn_fwd|_fwd_(grouped_)?kernel_stage[12]|KVCacheKernel",
         "void flashinfer::BatchDecodeWithPagedKVCacheKernel<…>(…)"),
    Rule("conv", r"implicit_(gemm|convolve)|[cs]udnn_(winograd|\d)|winograd|fprop|dgrad|wgrad|cutlass::conv",
         "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize64x128x64_warpgroupsize1x1x1_g1_"
         "execute_segment_k_off_kernel__5x_cudnn"),
    Rule("conv", r"\bconv_|\bconv\dd|conv1d|conv_depthwise|im2col|(max|avg|average)_pool|upsample_|grid_sampler",
         "void at::native::<unnamed>::upsample_linear1d_out_frame<c10::BFloat16, float>(int, T2, bool, …)"),
    Rule("gemv", r"\bgemv|\bmul_mat_vec",
         "void gemvNSP_kernel<__nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, (int)1, (int)32, (int)4, …>(T13)"),
    Rule("gemv", r"\b(dot|reduce_1Block)_kernel\b",
         "void dot_kernel<float, (int)128, (int)0, cublasDotParams<cublasGemvTensorStridedBatched<const float>, "
         "cublasGemvTensorStridedBatched<float>>>(T4)"),
    Rule("gemm", r"^nvjet_", "nvjet_sm90_tst_16x64_64x16_4x1_v_bz_TNN"),
    Rule("gemm", r"[Gg]emm|GEMM",
         "void cutlass::device_kernel<at::cuda::detail::enable_3x_kernel_for_sm9x<cutlass::gemm::kernel::GemmUniversal<"
         "cutlass::gemm::GroupProblemShape<cute::tuple<int, int, int>>, …>>>(T1::Params)"),
    Rule("gemm", r"splitKreduce|ReduceSplitK|cublasLt::",
         "void cublasLt::splitKreduce_kernel<(int)32, (int)16, int, float, __nv_bfloat16, float, …>(…)"),
    Rule("gemm", r"\bMarlin\b|\bfused_moe_kernel|\bmul_mat_|^triton_(tem_fused|mm)", "fused_moe_kernel"),
    Rule("moe", r"[Mm]oe|MoE|[Ee]xpert|[Gg]rouped_topk",
         "void vllm::moe::topkGatingSoftmax<(int)8, (int)128, (int)4, (int)16, (int)32, int, float>(…)"),
    Rule("norm", r"([Ll]ayer|[Rr][Mm][Ss]|[Gg]roup|[Bb]atch)_?[Nn]orm|RowwiseMoments|\bln_fwd|cudnn::bn_fw",
         "void at::native::<unnamed>::vectorized_layer_norm_kernel<c10::BFloat16, float, (bool)0>(int, T2, const T1 *, "
         "const T1 *, const T1 *, T2 *, T2 *, T1 *)"),
    Rule("sampling", r"\bsample|_sample|Sampling|[Mm]ultinomial|repetition_penalties",
         "void flashinfer::sampling::TopKTopPSamplingFromProbKernel<(unsigned int)1024, …>(…)"),
    Rule("sampling", r"distribution_elementwise|curand",
         "void at::native::<unnamed>::distribution_elementwise_grid_stride_kernel<float, (int)4, void "
         "at::native::templates::cuda::normal_and_transform<c10::BFloat16, float, at::CUDAGeneratorImpl *, …>, …>(…)"),
    Rule("softmax", r"[Ss]oft_?[Mm]ax",
         "void <unnamed>::softmax_warp_forward<float, float, float, (int)6, (bool)0, (bool)0>(T2 *, const T1 *, int, "
         "int, int, const bool *, int, bool)"),
    Rule("topk", r"[Tt]op_?[Kk]",
         "void at::native::sbtopk::gatherTopK<float, unsigned int, (int)1, (bool)0>(at::cuda::detail::TensorInfo<const "
         "T1, T2>, T2, T2, bool, T2, T2, …)"),
    Rule("topk", r"Device(Radix|Merge|Segmented)\w{0,99}Sort|[a-z]Sort|\bradix|"
         r"Device(Scan|Select|Compact|Unique|Partition)",
         "void at_cuda_detail::cub::detail::radix_sort::DeviceRadixSortOnesweepKernel<at_cuda_detail::cub::detail::"
         "radix::policy_hub<long, …>, …>(…)"),
    Rule("topk", r"kernel_scan_|[Hh]istogram|fill_reverse_indices",
         "void at::native::tensor_kernel_scan_innermost_dim<long, std::plus<long>>(T1 *, const T1 *, unsigned int, "
         "unsigned int, unsigned int, T1, T2)"),
    Rule("cat", r"CatArray|chunk_cat|split_with_sizes",
         "void at::native::<unnamed>::CatArrayBatchedCopy_vectorized<at::native::<unnamed>::OpaqueType<"
         "(unsigned int)2>, unsigned int, (int)3, (int)128, (int)1, (int)16, (int)8>(char *, …)"),
    Rule("gather", r"reshape_and_cache|concat_and_cache", "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, "
         "__nv_bfloat16, (vllm::Fp8KVCacheDataType)0>(const T1 *, const T1 *, …)"),
    Rule("gather", r"[Gg]ather|[Ss]catter|index_elementwise|index(Select|Func|ing_)|[Ee]mbedding|index_put",
         "void at::native::vectorized_gather_kernel<(int)16, long>(char *, char *, T2 *, int, long, long, long, long, "
         "bool)"),
    Rule("activation", r"act_and_mul|[Aa]ctivation|[Gg]e[Ll][Uu]|[Ss]i[Ll][Uu]|[Ss]wi[Gg][Ll][Uu]|geglu",
         "void at::native::vectorized_elementwise_kernel<(int)8, at::native::GeluCUDAKernelImpl(at::TensorIteratorBase "
         "&, at::native::GeluType)::[lambda() (instance 2)]::operator ()() const::[lambda() (instance 4)]::operator "
         "()() const::[lambda(c10::BFloat16) (instance 1)], std::array<char *, (unsigned long)2>>(int, T2, T3)"),
    Rule("activation", r"native::(<unnamed>::|\(anonymous namespace\)::)?(log_?)?(sigmoid|tanh|hardswish|hardsigmoid|"
         r"hardtanh|leaky_relu|elu|prelu|mish|softplus|threshold)_(kernel|backward)",
         "void at::native::vectorized_elementwise_kernel<(int)4, at::native::sigmoid_kernel_cuda("
         "at::TensorIteratorBase &)::[lambda() (instance 2)]::operator ()() const::…>(int, T2, T3)"),
    Rule("copy", r"copy_kernel|[Tt]ranspose|nchwToNhwc|nhwcToNchw|copy_blocks",
         "void at::native::elementwise_kernel<(int)128, (int)4, void at::native::gpu_kernel_impl_nocast<"
         "at::native::direct_copy_kernel_cuda(at::TensorIteratorBase &)::[lambda() (instance 3)]::operator ()() const::"
         "[lambda() (instance 12)]::operator ()() const::[lambda(c10::BFloat16) (instance 1)]>(at::TensorIteratorBase "
         "&, const T1 &)::[lambda(int) (instance 1)]>(int, T3)"),
    Rule("copy", r"[Qq]uant",
         "void vllm::dynamic_per_token_scaled_fp8_quant_kernel<c10::BFloat16, c10::Float8_e4m3fn>(T2 *, float *, …)"),
    Rule("memory", r"FillFunctor|[Mm]emset|\bfill_kernel",
         "void at::native::vectorized_elementwise_kernel<(int)2, at::native::FillFunctor<double>, std::array<char *, "
         "(unsigned long)1>>(int, T2, T3)"),
    Rule("reduce", r"[Rr]educ(e|tion)",
         "void at::native::reduce_kernel<(int)512, (int)1, at::native::ReduceOp<float, at::native::MeanOps<float, "
         "float, float, float>, unsigned int, float, (int)4, (int)4>>(T3)"),
    Rule("reduce", r"nvfuser_\w{0,99}persistent",
         "<unnamed>::nvfuser_inner_persistent_f0_c1_r0_g2(<unnamed>::Tensor<float, (int)3, (int)3>, <unnamed>::Tensor<"
         "float, (int)2, (int)2>)"),
    Rule("elementwise", r"elementwise_kernel|multi_tensor_apply|triu_tril|dropout",
         "void at::native::elementwise_kernel<(int)128, (int)4, void at::native::gpu_kernel_impl_nocast<"
         "at::native::CUDAFunctor_add<c10::BFloat16>>(at::TensorIteratorBase &, const T1 &)::[lambda(int) (instance "
         "1)]>(int, T3)"),
    Rule("elementwise", r"nvfuser_pointwise",
         "<unnamed>::nvfuser_pointwise_f0_c1_r0_g0(<unnamed>::Tensor<float, (int)2, (int)2>, <unnamed>::Tensor<float, "
         "(int)2, (int)2>)"),
    # programs without a model: a loop over an index range, whatever its body, and the vector sum of BLAS
    Rule("elementwise", r"\bpar_ranged\dd_kernel|ParallelFor\b|ParallelForAgent",
         "void clover::par_ranged1d_kernel<initialise_chunk(int, global_variables &)::[lambda(int) (instance 3)]>("
         "clover::Range1d, T1)"),
    Rule("elementwise", r"\b[sdcz]?axpy", "saxpy(double *, double *, double *, double, int)"),
)  # fmt: skip


def family_of(name: str, rules: Sequence[Rule] = RULES) -> str:
    """The family of the first rule that fits the demangled kernel name; ``other`` where none does.

    >>> family_of("nvjet_sm90_tst_16x64_64x16_4x1_v_bz_TNN")
    'gemm'
    """
    return families_of([name], rules)[0]


def families_of(names: Sequence[str], rules: Sequence[Rule] = RULES) -> list[str]:
    """The family of each of some names; of a long one its first `LOOKED_AT` characters count.

    `rules`: the usual ones, or others before them. Raises `PatternTooSlow`.
    """
    heads = [name[:LOOKED_AT] for name in names]
    usual = len(rules) >= len(RULES) and tuple(rules[len(rules) - len(RULES) :]) == RULES
    own = rules[: len(rules) - len(RULES)] if usual else rules
    first = first_found([rule.pattern for rule in own], heads)
    found = [own[number].family if number >= 0 else OTHER for number in first]
    rest = [place for place, number in enumerate(first) if number < 0]
    if usual:
        for place, family in zip(rest, _usual_families([heads[place] for place in rest]), strict=True):
            found[place] = family
    return found


def _usual_families(names: Sequence[str]) -> list[str]:
    """By the rules above; Arrow's search takes time in proportion to the names, whatever they are."""
    import pyarrow as pa

    from dsprof.ground.arrow import bits, fitting, rows_kept

    found = [OTHER] * len(names)
    encoded = [name.encode("utf-8", "surrogatepass") for name in names]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    # `pa.array` would do, but it loads pandas to ask a question.
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    left = pa.Array.from_buffers(pa.large_binary(), len(encoded), buffers)
    places = np.arange(len(names))
    for rule in RULES:
        fits = fitting(left, rule.pattern)
        if fits.any():
            for place in places[fits].tolist():
                found[place] = rule.family
            places, left = places[~fits], rows_kept(left, bits(~fits))
    return found


class FamilyCodes:
    """Families of the kernels that the codes of a report stand for; the rules are asked once for a name.

    `names`: the families that the rules know, each once, and ``other`` last.
    """

    def __init__(self, kernels: Sequence[str], rules: Sequence[Rule]) -> None:
        self._kernels, self._rules = kernels, rules
        self.names = (*dict.fromkeys(rule.family for rule in rules if rule.family != OTHER), OTHER)
        self._codes = np.full(len(kernels), -2, np.int64)  # where nobody asked yet

    def of(self, codes: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Index into `names` for each of a column of codes of kernels."""
        number = {family: code for code, family in enumerate(self.names)}
        asked = np.bincount(codes, minlength=len(self._codes)) > 0
        if len(new := np.flatnonzero(asked & (self._codes == -2))):
            found = families_of([self._kernels[code] for code in new.tolist()], self._rules)
            self._codes[new] = [number[family] for family in found]
        of_row: npt.NDArray[np.int64] = self._codes[codes]
        return of_row


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a TOML file, in order. Raises `RulesUnreadable`.

    ::

        [[family]]
        name = "attention"              # one of FAMILIES, or another
        pattern = "my_attn|tree_attn"   # a regular expression, searched for in the demangled name
        example = "my_attn_kernel"      # may be left out; must fit
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH110, PTH112, PTH113
        raise _unreadable(path, "it is no file")  # a pipe or a device may never end
    try:
        document = tomllib.loads(text_of(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _unreadable(path, reason) from error
    entries = document.get("family")
    if set(document) != {"family"} or not isinstance(entries, list) or not entries:
        raise _unreadable(path, "it must hold [[family]] parts and nothing else")
    return rules_in(path, entries)


def rules_in(path: Path, entries: Sequence[Any], key: str = "family") -> tuple[Rule, ...]:
    """The rules of the parts of a TOML file that are called `key`. Raises `RulesUnreadable`."""
    return tuple(_rule(path, f"its [[{key}]] number {number}", entry) for number, entry in enumerate(entries, 1))


def _rule(path: Path, part: str, entry: Any) -> Rule:
    """The rule of one part of the file."""
    keys = set(entry) if isinstance(entry, dict) else set()
    if not {"name", "pattern"} <= keys <= {"name", "pattern", "example"}:
        raise _unreadable(path, f"{part} must have name and pattern, may have example, and nothing else")
    if not all(isinstance(value, str) and value.strip() for value in entry.values()):
        raise _unreadable(path, f"{part} has a value that is no text, or empty")
    try:
        fits = first_found([entry["pattern"]], [entry.get("example", "")]) == [0]
    except (re.error, RecursionError, OverflowError) as error:
        raise _unreadable(path, f"{part} has a pattern that is no regular expression: {error}") from error
    if "example" in entry and not fits:
        raise _unreadable(path, f"{part} has an example that its pattern does not fit")
    return Rule(entry["name"], entry["pattern"], entry.get("example", ""))


def _unreadable(path: Path, reason: str) -> RulesUnreadable:
    hint = 'A rule is [[family]], name = "attention", pattern = "my_attn", each on its line.'
    return RulesUnreadable(f"The kernel families in {path} cannot be read: {reason}.", hint)
