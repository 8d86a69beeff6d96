"""Kernel families: each rule has its kernel, each kernel one family, and nearly no kernel time is left over."""

from __future__ import annotations

import lzma
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dsprof
from dsprof.errors import RulesUnreadable
from dsprof.measures.by_name import KernelsByStage
from dsprof.rules.families import FAMILIES, OTHER, RULES, FamilyCodes, Rule, family_of, read_rules
from trace_builder import TraceBuilder

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = sorted((ROOT / "traces/samples").glob("*.sqlite.xz"))
SHARED = sorted((ROOT.parent / "shared/traces").glob("*.sqlite.xz"))
LARGEST_OTHER_PCT = 3.0

#: Kernels of PyTorch, cuBLAS, cuDNN, CUTLASS, flash-attention, vLLM, FlashInfer, Triton and NCCL, beside those of the
#: rules, in both ways of demangling. Their functors, or words in them, lure into a wrong family.
PUBLISHED = {
    "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorItera"
    "torBase &)::[lambda() (instance 3)]::operator ()() const::[lambda() (instance 7)]::operator ()()"
    " const::[lambda(float) (instance 1)], std::array<char *, (unsigned long)2>, (int)4, TrivialOffse"
    "tCalculator<(int)1, unsigned int>, …>(int, T1, …)": "copy",
    "void at::native::vectorized_elementwise_kernel<(int)8, at::native::<unnamed>::silu_kernel(at::Te"
    "nsorIteratorBase &)::[lambda() (instance 1)]::operator ()() const::…, std::array<char *, (unsign"
    "ed long)2>>(int, T2, T3)": "activation",
    "void at::native::vectorized_elementwise_kernel<4, at::native::rsqrt_kernel_cuda(at::TensorIterat"
    "orBase&)::{lambda()#2}::operator()() const::{lambda(float)#1}, at::detail::Array<char*, 2> >(int"
    ", …)": "elementwise",
    "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::pow_tensor_"
    "scalar_kernel_impl<float, float>(at::TensorIteratorBase&, float)::{lambda(float)#1}, at::detail:"
    ":Array<char*, 2> >(int)": "elementwise",
    "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl<at::native::BinaryFuncto"
    "r<float, float, float, at::native::binary_internal::MulFunctor<float> > >(at::TensorIteratorBase"
    "&, …)>(int, …)": "elementwise",
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::ArgMaxOps<float>,"
    " unsigned int, long, 4, 4> >(at::native::ReduceOp<…>)": "reduce",
    "void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, c10::BFloat16, float, c10::BFloat"
    "16, at::native::(anonymous namespace)::LogSoftMaxForwardEpilogue>(c10::BFloat16*, c10::BFloat16 "
    "const*, int)": "softmax",
    "void at::native::(anonymous namespace)::indexSelectLargeIndex<float, long, unsigned int, 2, 2, -"
    "2, true>(…)": "gather",
    "void at::native::_scatter_gather_elementwise_kernel<128, 8, at::native::_cuda_scatter_gather_int"
    "ernal_kernel<false, at::native::OpaqueType<4> >::operator()<at::native::TensorAssign>(…)>(int, …"
    ")": "gather",
    "void at::native::index_elementwise_kernel<128, 4, at::native::gpu_index_kernel<at::native::index"
    "_put_kernel_impl<at::native::OpaqueType<2> >(at::TensorIterator&, …)>(…)>(long, …)": "gather",
    "void at::native::(anonymous namespace)::CatArrayBatchedCopy<at::native::(anonymous namespace)::O"
    "paqueType<2u>, unsigned int, 4, 64, 64>(…)": "cat",
    "void at::native::bitonicSortKVInPlace<2, -1, 16, 16, float, long, at::native::GTOp<float, true>,"
    " unsigned int>(…)": "topk",
    "void cub::CUB_200101_860_NS::DeviceSegmentedRadixSortKernel<…>(…)": "topk",
    "void at::native::(anonymous namespace)::sampleMultinomialOnce<float, float>(long*, long, int, …)": "sampling",
    "void at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<float>(long, float, float const"
    "*, …)": "norm",
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<…>(…)": "elementwise",
    "ampere_bf16_s16816gemm_bf16_128x64_ldg8_relu_f2f_stages_64x3_tn": "gemm",
    "void gemmk1_kernel<int, float, 256, 5, false, false, false, false, cublasGemvTensorStridedBatche"
    "d<float const>, cublasGemvTensorStridedBatched<float const>, cublasGemvTensorStridedBatched<floa"
    "t>, float, 0>(…)": "gemm",
    "std::enable_if<!(false), void>::type internal::gemvx::kernel<int, int, __nv_bfloat16, __nv_bfloa"
    "t16, __nv_bfloat16, float, false, true, true, false, 7, false, cublasGemvParamsEx<…> >(…)": "gemv",
    "void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 4, 4, false, false, cublas"
    "GemvParamsEx<…> >(…)": "gemv",
    "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_32x1_tn_align2>(T1::P"
    "arams)": "gemm",
    "void at::cuda::detail::prepare_grouped_gemm_data<cutlass::bfloat16_t, cutlass::bfloat16_t, cutla"
    "ss::bfloat16_t, float, cute::tuple<int, int, int>, …>(…)": "gemm",
    "void marlin::Marlin<__nv_bfloat16, 256, 1, 8, 8, 4, …>(int4 const*, …)": "gemm",
    "void implicit_convolve_sgemm<__nv_bfloat16, __nv_bfloat16, (int)1024, (int)5, (int)5, (int)3, …>"
    "(int, int, int, …)": "conv",
    "void cudnn::winograd_nonfused::winogradForwardData4x4<float, float>(…)": "conv",
    "void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16, __nv_bfloat16, float, false, true, (cudnnKernel"
    "DataType_t)0>(…)": "copy",
    "void flash::flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4, …>, 4, 1, "
    "true>(…)": "attention",
    "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::Collectiv"
    "eMainloopFwdSm90<2, cute::tuple<…>, cutlass::gemm::…>, …> > >(…)": "attention",
    "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass::bfloa"
    "t16_t, …>::Params)": "attention",
    "void vllm::paged_attention_v2_reduce_kernel<__nv_bfloat16, 128, 128, 512>(…)": "attention",
    "kernel_unified_attention_2d": "attention",
    "void flashinfer::BatchPrefillWithPagedKVCacheKernel<…>(…)": "attention",
    "void vllm::merge_attn_states_kernel<__nv_bfloat16, 128>(…)": "attention",
    "void vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>(…)": "norm",
    "void vllm::act_and_mul_kernel<c10::BFloat16, &(vllm::silu_kernel<c10::BFloat16>(c10::BFloat16 co"
    "nst&)), true>(…)": "activation",
    "void vllm::moe::moe_align_block_size_kernel<int>(…)": "moe",
    "void vllm::reshape_and_cache_kernel<__nv_bfloat16, __nv_bfloat16, (vllm::Fp8KVCacheDataType)0>(…"
    ")": "gather",
    "void vllm::scaled_fp8_quant_kernel<c10::BFloat16, c10::Float8_e4m3fn>(…)": "copy",
    "rejection_greedy_sample_kernel": "sampling",
    "triton_poi_fused__scaled_dot_product_flash_attention_clone_3": "elementwise",
    "triton_per_fused__to_copy_add_mean_mul_pow_rsqrt_2": "reduce",
    "triton_tem_fused_mm_4": "gemm",
    "triton_tem_fused_flex_attention_0": "attention",
    "ncclKernel_AllReduce_RING_LL_Sum_bf16(ncclDevComm*, unsigned long, ncclWork*)": "communication",
    "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)": "communication",
    "my_own_kernel(float *, int)": OTHER,
    "kernel": OTHER,
    "": OTHER,
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern)
def test_each_rule_is_the_first_to_fit_its_own_example(rule):
    """So none is unreachable, and none may be put where it takes another's kernels."""
    assert next((other for other in RULES if re.search(other.pattern, rule.example)), None) is rule


def test_rules_and_families_are_each_there_once():
    assert {rule.family for rule in RULES} == set(FAMILIES) - {OTHER}
    assert len({rule.pattern for rule in RULES}) == len({rule.example for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_kernels(name):
    assert family_of(name) == PUBLISHED[name]


def analyzed(packed, folder):
    """The analysis of a packed report, unpacked elsewhere: nothing is left beside it."""
    export = folder / packed.stem
    export.write_bytes(lzma.decompress(packed.read_bytes()))
    return dsprof.analyze(export)


@pytest.mark.parametrize("path", SAMPLES + SHARED, ids=lambda path: f"{path.parts[-2]}-{path.name}")
def test_nearly_no_kernel_time_is_left_over(path, tmp_path):
    """Of every report at hand, whole and in each stage; and the families part the kernels of each stage."""
    analysis = analyzed(path, tmp_path)
    families, kernels = analysis["stage_family_sum"], analysis["stage_kern_sum"]
    left = families["total_ns"].where(families["family"] == OTHER, 0)
    assert 100 * left.sum() < LARGEST_OTHER_PCT * families["total_ns"].sum()
    columns = ["instances", "total_ns"]
    parts = kernels.groupby(["stage", "family"], observed=True)[columns].sum()
    whole = families.set_index(["stage", "family"])[columns]
    pd.testing.assert_frame_equal(whole.sort_index(), parts.sort_index(), check_index_type=False)


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    """Two stages and a launch of none; b's name no rule knows."""
    report = TraceBuilder().range("prefill", 0, 50).range("decode", 60, 90)
    names = ("nvjet_x", "b", "sgemm_x", "nvjet_x", "b", "gemv_x", "nvjet_x")
    for number, (name, call) in enumerate(zip(names, (1, 2, 3, 61, 62, 63, 95), strict=True)):
        report.kernel(name, at=(100 * number + 100, 100 * number + 110 + number), call=(call, call + 1))
    return dsprof.analyze(report.write(tmp_path_factory.mktemp("families") / "made.sqlite"))


def test_families_of_each_stage_with_their_statistics(analysis):
    found = analysis["stage_family_sum"]
    columns = ["stage", "family", "instances", "total_ns", "min_ns", "max_ns"]
    assert found[columns].to_numpy().tolist() == [
        ["prefill", "gemm", 2, 22, 10, 12],
        ["prefill", OTHER, 1, 11, 11, 11],
        ["decode", "gemv", 1, 15, 15, 15],
        ["decode", OTHER, 1, 14, 14, 14],
        ["decode", "gemm", 1, 13, 13, 13],
        ["(no stage)", "gemm", 1, 16, 16, 16],
    ]
    assert found["avg_ns"].tolist() == found["med_ns"].tolist() == [11.0, 11.0, 15.0, 14.0, 13.0, 16.0]
    assert found["stddev_ns"].tolist() == pytest.approx([2**0.5, 0, 0, 0, 0, 0])
    assert found.groupby("stage", observed=True)["share_pct"].sum().tolist() == pytest.approx([100.0] * 3)
    assert found["share_pct"][0] == pytest.approx(100 * 22 / 33)


def test_every_kernel_has_the_family_of_its_name(analysis):
    for table in ("kern_trace", "stage_kern_sum"):
        rows = analysis[table]
        assert rows["family"].tolist() == [family_of(name) for name in rows["kernel"]]
        assert len(rows)


def test_rules_are_asked_once_for_each_name(analysis, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dsprof.rules.families.families_of", lambda names, rules: asked.extend(names) or ["gemm"] * len(names)
    )
    assert len(analysis["stage_family_sum"])  # measured, whichever test comes first
    asked.clear()
    kernels = analysis.results.facts[KernelsByStage]
    families = FamilyCodes(kernels.names, RULES)
    codes = [families.of(kernels.name) for _ in range(2)]
    assert sorted(asked) == ["b", "gemv_x", "nvjet_x", "sgemm_x"]
    assert np.array_equal(*codes)


def test_the_summary_names_few_families_and_says_what_is_left(analysis, tmp_path):
    lines = analysis.summary().families
    assert [(line.stage, line.family) for line in lines] == [
        ("prefill", "gemm"), ("prefill", OTHER), ("decode", "gemv"), ("decode", OTHER), ("decode", "gemm"),
    ]  # fmt: skip
    from dsprof.show.layout import MOST_FAMILIES, grids

    (grid,) = (grid for grid in grids(analysis.summary()) if grid.title == "Kernel time")
    assert grid.header == ("stage", "gemm", "gemv", OTHER)
    assert [row[0] for row in grid.rows] == ["prefill", "decode"]
    assert [row[-1] for row in grid.rows] == ["33.3 %", "33.3 %"]
    sample = analyzed(ROOT / "traces/samples/h200-stages.sqlite.xz", tmp_path).summary()
    (grid,) = (grid for grid in grids(sample) if grid.title == "Kernel time")
    assert len(grid.header) == 1 + MOST_FAMILIES + 2
    for row in grid.rows:
        assert sum(float(share.split()[0]) for share in row[1:]) == pytest.approx(100, abs=0.5)


# -- rules of one's own ---------------------------------------------------------------------------------


def written(tmp_path, text):
    path = tmp_path / "families.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rules_of_a_file_come_before_the_usual_ones(tmp_path, analysis):
    path = written(tmp_path, "[[family]]\nname = 'attention'\npattern = '^b$'\nexample = 'b'\n"
                             "[[family]]\nname = 'mine'\npattern = 'gemv'\n")  # fmt: skip
    assert read_rules(path) == (Rule("attention", "^b$", "b"), Rule("mine", "gemv"))
    found = dsprof.analyze(analysis.path, families=path)
    by_kernel = dict(found["kern_trace"][["kernel", "family"]].astype(str).to_numpy().tolist())
    assert by_kernel == {"nvjet_x": "gemm", "sgemm_x": "gemm", "b": "attention", "gemv_x": "mine"}
    assert "mine" in found["stage_family_sum"]["family"].tolist()


@pytest.mark.parametrize("text", ["name = 'other'\npattern = 'nvjet'", "name = 'mine'\npattern = 'nvjet'"])
def test_a_rule_may_also_take_a_kernel_away(tmp_path, analysis, text):
    found = dsprof.analyze(analysis.path, families=written(tmp_path, f"[[family]]\n{text}\n"))
    totals = found["stage_family_sum"].groupby("family", observed=True)["instances"].sum()
    assert totals["gemm"] == 1
    assert totals.sum() == 7


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must hold [[family]] parts"),
        ("[family]\nname = 'a'\npattern = 'b'", "must hold [[family]] parts"),
        ("[[families]]\nname = 'a'\npattern = 'b'", "must hold [[family]] parts"),
        ("family = [1]", "number 1 must have name and pattern"),
        ("[[family]]\nname = 'a'\npattern = 'b'\n[[family]]\nname = 'a'", "number 2 must have name and pattern"),
        ("[[family]]\nname = 'a'\npattern = 'b'\nregex = 'c'", "number 1 must have name and pattern"),
        ("[[family]]\nname = 'a'\npattern = 3", "a value that is no text, or empty"),
        ("[[family]]\nname = ' '\npattern = 'b'", "a value that is no text, or empty"),
        ("[[family]]\nname = 'a'\npattern = '('", "no regular expression: missing )"),
        ("[[family]]\nname = 'a'\npattern = 'b'\nexample = 'c'", "an example that its pattern does not fit"),
        ("[[family]", "line 1"),
        (b"[[family]]\nname = '\xff'", "decode"),
    ],
)
def test_a_wrong_file_is_told(tmp_path, text, reason):
    path = written(tmp_path, text)
    with pytest.raises(RulesUnreadable) as caught:
        read_rules(path)
    assert str(path) in caught.value.message
    assert reason in caught.value.message
    assert "[[family]]" in caught.value.hint


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_missing_file_is_told(tmp_path, name):
    with pytest.raises(RulesUnreadable, match=r"No such file|Is a directory"):
        read_rules(tmp_path / name)


@pytest.mark.parametrize("command", [["analyze"], ["table", "stage_family_sum"]], ids=" ".join)
def test_the_command_line_takes_a_file_and_refuses_a_wrong_one(tmp_path, analysis, capsys, monkeypatch, command):
    from dsprof.cli import main

    path = written(tmp_path, "[[family]]\nname = 'mine'\npattern = '^b$'\n")
    line = [command[0], str(analysis.path), *command[1:], "--families", str(path)]
    monkeypatch.setattr("sys.argv", ["dsprof", *line])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    assert "mine" in capsys.readouterr().out
    path.write_text("[[family]]\n")
    with pytest.raises(SystemExit, match=f"^{RulesUnreadable.exit_code}$"):
        main()
    assert "must have name and pattern" in capsys.readouterr().err
