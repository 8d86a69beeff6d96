"""Short kernel names: of real kernels, as Nsight writes them, and of anything at all."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsprof.rules.names import short_kernel_name

some = settings(max_examples=300, deadline=None)

#: Kernels of PyTorch, cuBLAS, cuDNN, CUTLASS and CUB from an LLM's prefill and decode on an H200.
REAL = {
    "void at::native::vectorized_elementwise_kernel<(int)2, at::native::AUnaryFunctor<long, long, long, "
    "at::native::binary_internal::MulFunctor<long>>, std::array<char *, (unsigned long)2>>(int, T2, T3)":
        "vectorized_elementwise_kernel<MulFunctor>",
    "void at::native::elementwise_kernel<(int)128, (int)2, void at::native::gpu_kernel_impl_nocast<"
    "at::native::direct_copy_kernel_cuda(at::TensorIteratorBase &)::[lambda() (instance 3)]::operator ()() const::"
    "[lambda() (instance 4)]::operator ()() const::[lambda(long) (instance 1)]>(at::TensorIteratorBase &, "
    "const T1 &)::[lambda(int) (instance 1)]>(int, T3)":
        "elementwise_kernel<direct_copy_kernel_cuda>",
    "void at::native::vectorized_elementwise_kernel<(int)8, at::native::<unnamed>::silu_kernel("
    "at::TensorIteratorBase &)::[lambda() (instance 1)]::operator ()() const::[lambda() (instance 6)]::operator "
    "()() const::[lambda(c10::BFloat16) (instance 1)], std::array<char *, (unsigned long)2>>(int, T2, T3)":
        "vectorized_elementwise_kernel<silu_kernel>",
    "void at::native::reduce_kernel<(int)512, (int)1, at::native::ReduceOp<float, at::native::ArgMaxOps<float>, "
    "unsigned int, long, (int)4, (int)4>>(T3)":
        "reduce_kernel<ArgMaxOps>",
    "void at::native::index_elementwise_kernel<(int)128, (int)4, void at::native::gpu_index_kernel<void "
    "at::native::index_kernel_impl<at::native::OpaqueType<(int)2>>(at::TensorIteratorBase &, c10::ArrayRef<long>, "
    "c10::ArrayRef<long>)::[lambda(char *, const char *, long) (instance 1)]>(at::TensorIteratorBase &, "
    "c10::ArrayRef<long>, c10::ArrayRef<long>, const T1 &, bool)::[lambda(int) (instance 1)]>(long, T3)":
        "index_elementwise_kernel<index_kernel_impl>",
    "void <unnamed>::elementwise_kernel_with_index<int, at::native::arange_cuda_out(const c10::Scalar &, const "
    "c10::Scalar &, const c10::Scalar &, at::Tensor &)::[lambda() (instance 1)]::operator ()() const::[lambda() "
    "(instance 7)]::operator ()() const::[lambda(long) (instance 1)]>(T1, T2, function_traits<T2>::result_type *)":
        "elementwise_kernel_with_index<arange_cuda_out>",
    "void at_cuda_detail::cub::detail::scan::DeviceScanKernel<at_cuda_detail::cub::detail::scan::policy_hub<int, "
    "int, int, unsigned int, std::plus<int>>::Policy1000, const int *, int *, at_cuda_detail::cub::ScanTileState<"
    "int, (bool)1>, std::plus<int>, at_cuda_detail::cub::NullType, unsigned int, int, (bool)0, "
    "at_cuda_detail::cub::NullType>(T2, T3, T4, int, T5, T6, T7)":
        "DeviceScanKernel<plus>",
    "void dot_kernel<float, (int)128, (int)0, cublasDotParams<cublasGemvTensorStridedBatched<const float>, "
    "cublasGemvTensorStridedBatched<float>>>(T4)":
        "dot_kernel<cublasDotParams>",
    "void <unnamed>::softmax_warp_forward<float, float, float, (int)6, (bool)0, (bool)0>(T2 *, const T1 *, int, "
    "int, int, const bool *, int, bool)":
        "softmax_warp_forward",
    "at::native::<unnamed>::masked_scatter_size_check(const long *, const bool *, long)":
        "masked_scatter_size_check",
    "nvjet_sm90_tst_64x8_64x16_4x1_v_bz_splitK_TNT":
        "nvjet_sm90_tst_64x8_64x16_4x1_v_bz_splitK_TNT",
    "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_32x1_tn_align2>(T1::Params)":
        "Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x1…",
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64_4x1x1_cga1x1x1_kernel0_0":
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16…",
    "(CUDA graph)": "(CUDA graph)",
}  # fmt: skip

#: Pieces of names, so that anything may follow anything.
pieces = st.lists(
    st.sampled_from(
        ["void ", "at::", "native::", "<unnamed>", "(anonymous namespace)", "::", "kernel", "Functor", "T1", "int",
         "<", ">", "(", ")", "[", "]", "{", "}", ", ", " ", "&", "operator", "_", "->", ">>", "é", "[clone .0]"]
    ),
    min_size=1, max_size=12,
).map("".join)  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_kernels(name):
    assert short_kernel_name(name) == REAL[name]


@some
@given(pieces | st.text(min_size=1, max_size=40))
@example("void ")
@example("::")
@example("void at::native::(int)")
@example("<>")
@example("(CUDA graph)")
def test_never_empty_and_never_too_wide(name):
    short = short_kernel_name(name)
    assert 1 <= len(short) <= 60


@some
@given(st.sampled_from(list(REAL)) | pieces, st.integers(1, 80))
def test_any_width(name, width):
    short, whole = short_kernel_name(name, width), short_kernel_name(name, 10_000)
    assert 1 <= len(short) <= width
    assert short == whole if len(whole) <= width else short == whole[: width - 1] + "…"
