"""Names that fit a screen: a kernel's function and what it was made for, an API call without its version."""

from __future__ import annotations

import re

#: Words of a template argument that say nothing about what a kernel does.
_NOISE = re.compile(
    r"^(void|int|long|float|double|bool|char|short|unsigned|const|size_t|operator|lambda|instance|unnamed|_|T\d*|"
    r"array|Array|tuple|BFloat16|Half|bfloat16_t|half_t|__nv_bfloat16|__half|gpu_kernel_impl\w*|gpu_index_kernel|"
    r"ReduceOp|C|SortOrder|[AB]?UnaryFunctor|BinaryFunctor|func_wrapper_t|OpaqueType|Kernel2?|policy_hub|Policy\w*|Params|"
    r"TensorIterator\w*|Tensor(Base|Info)?|Scalar|ArrayRef|\w*OffsetCalculator|(Load|Store)With(out)?Cast)$"
)
#: An identifier that is not the namespace of another.
_IDENTIFIER = re.compile(r"\b[A-Za-z_]\w*\b(?!::)")
_ANGLES = re.compile(r"[<>]")
_BRACKETED = re.compile(r"[<(\[{]")
#: The version of a call's arguments, 3020 for CUDA 3.2; a shorter number is part of the name (cuGetProcAddress_v2).
_VERSION = re.compile(r"_v\d{4,5}$")


#: Of a kernel's name so many characters are looked at.
_LOOKED_AT = 1 << 13


def api_name(name: str) -> str:
    """The name of a CUDA API call without the version of its arguments.

    >>> api_name("cudaLaunchKernel_v7000"), api_name("cuGetProcAddress_v2")
    ('cudaLaunchKernel', 'cuGetProcAddress_v2')
    """
    return _VERSION.sub("", name)


def short_kernel_name(name: str, width: int = 60) -> str:
    """A kernel's own name with the one functor that tells it from its like, at most `width` characters.

    >>> short_kernel_name("void at::native::vectorized_elementwise_kernel<(int)4, at::native::FillFunctor<long>>(int)")
    'vectorized_elementwise_kernel<FillFunctor>'
    >>> short_kernel_name("nvjet_sm90_tst_16x64_64x16_4x1_v_bz_TNN")
    'nvjet_sm90_tst_16x64_64x16_4x1_v_bz_TNN'
    """
    name = name[:_LOOKED_AT]
    plain = name.removeprefix("void ").replace("<unnamed>", "_").replace("(anonymous namespace)", "_")
    bracket = _BRACKETED.search(plain)
    if bracket is None:
        return _fit(plain.split("::")[-1] or name, width)
    function = plain[: bracket.start()].split("::")[-1] or plain
    functor = _functor(plain[bracket.start() :]) if bracket.group() == "<" else ""
    return _fit(f"{function}<{functor}>" if functor else function, width)


def _functor(arguments: str) -> str:
    """The first telling identifier within the outermost template arguments; empty where there is none."""
    depth, end = 0, len(arguments)
    for angle in _ANGLES.finditer(arguments):
        depth += 1 if angle[0] == "<" else -1
        if depth == 0:
            end = angle.start()
            break
    words = (found[0] for found in _IDENTIFIER.finditer(arguments[1:end]))
    return next((word for word in words if not _NOISE.match(word)), "")


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
