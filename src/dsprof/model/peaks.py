"""What a GPU could do at most: dense operations and bytes a second, from what the report says of it.

Peak = multiprocessors x operations of one of them in a cycle x the report's clock. That clock is the highest that the
GPU runs at, so the peak is a roof that nothing exceeds. NVIDIA's data sheets give Hopper and Blackwell of the data
center a lower clock for tensor cores: H100 and H200 have 989 TFLOP/s in bfloat16 there, at 1830 MHz, and 1071 here, at
the 1980 MHz of their reports. Structured sparsity, which doubles the numbers of data sheets, is not counted.

Sources of the rates: CUDA C++ Programming Guide, "Arithmetic Instructions" (throughput of 32-bit floating-point
multiply-adds in a cycle of a multiprocessor, by compute capability; an operation is half of one), and for tensor cores
NVIDIA's white papers: Tesla V100 (2017), Turing (2018), A100 (2020) with its table of operations in a cycle of a
multiprocessor, GA102 (2021), Ada (2022), H100 (2022), RTX Blackwell (2025); HGX B200 data sheet (2024). Each rate
gives the paper's dense peak at the paper's clock, which the tests compute. Rates of NVLink are half of what the data
sheets of V100, A100, H100, H200 and B200 give, as those count both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dsprof.records import frozen
from dsprof.trace import Gpu

#: Operations of a multiprocessor in a cycle, dense, by compute capability and by what is multiplied.
RATES: dict[str, dict[str, int]] = {
    "7.0": {"fp32": 128, "fp16": 1024},
    "7.5": {"fp32": 128, "fp16": 1024, "int8": 2048},
    "8.0": {"fp32": 128, "tf32": 1024, "fp16": 2048, "bf16": 2048, "int8": 4096},
    "8.6": {"fp32": 256, "tf32": 512, "fp16": 1024, "bf16": 1024, "int8": 2048},
    "8.9": {"fp32": 256, "tf32": 512, "fp16": 1024, "bf16": 1024, "fp8": 2048, "int8": 2048},
    "9.0": {"fp32": 256, "tf32": 2048, "fp16": 4096, "bf16": 4096, "fp8": 8192, "int8": 8192},
    "10.0": {"fp32": 256, "tf32": 4096, "fp16": 8192, "bf16": 8192, "fp8": 16384, "int8": 16384},
    "12.0": {"fp32": 256, "tf32": 512, "fp16": 1024, "bf16": 1024, "fp8": 2048, "int8": 2048},
}
#: Words in names of products whose tensor cores take two cycles, as where floats are added up in 32 bits, and the units
#: that do not.
WHOLE = {"GeForce": ("fp32", "int8"), "L40": ("fp32",)}
#: What multiplies weights of each type at best, the first that the GPU has. PyTorch leaves TF32 off for matrices and
#: on for convolutions; a roof must hold for both.
_UNITS = {
    "float32": ("tf32", "fp32"), "float16": ("fp16",), "bfloat16": ("bf16", "fp32"),
    "float8_e4m3fn": ("fp8",), "float8_e5m2": ("fp8",), "int8": ("int8",),
}  # fmt: skip


#: Bytes that NVLink moves in a second in one direction, by the names of GPUs that have it in every machine.
LINKS = {
    r"V100-SXM": 150e9,
    r"A100-SXM": 300e9,
    r"H100 \d+GB HBM|H100 SXM": 450e9,
    r"H200\b(?! NVL)": 450e9,
    r"B200\b": 900e9,
}


def link_of(names: Iterable[str]) -> float | None:
    """Bytes a second, in one direction, of NVLink between GPUs of these names; None where they have none, or differ.

    >>> link_of(["NVIDIA H100 80GB HBM3"] * 2), link_of(["NVIDIA H100 PCIe"])
    (450000000000.0, None)
    """
    found = {next((rate for pattern, rate in LINKS.items() if re.search(pattern, name)), None) for name in names}
    return found.pop() if len(found) == 1 else None


class UnknownPeak(ValueError):
    """A GPU whose peaks cannot be told; the message is a sentence."""


@frozen
class Peaks:
    """The roofs of a GPU: `unit` is what multiplies, rates are by the second; the same for quantized weights."""

    gpu: str
    unit: str
    flops_per_s: float
    bytes_per_s: float
    quantized_unit: str
    quantized_flops_per_s: float


def peaks_of(gpu: Gpu, dtype: str, quantized: str | None = None) -> Peaks:
    """The peaks of a GPU for weights of type `dtype`, and for those that are quantized and multiplied as another.

    Raises `UnknownPeak` where the report or the table lacks them.

    >>> h200 = Gpu(0, "NVIDIA H200", "9.0", 132, 1_980_000_000, 4_814_304_000_000)
    >>> found = peaks_of(h200, "bfloat16")
    >>> found.unit, round(found.flops_per_s / 1e12), round(found.bytes_per_s / 1e12, 2)
    ('bf16', 1071, 4.81)
    """
    rates = RATES.get(gpu.compute_capability)
    if rates is None:
        known = ", ".join(RATES)
        named = gpu.compute_capability or "(none in the report)"
        raise UnknownPeak(f"The peaks of {gpu.name} are not known: compute capability {named}; known are {known}.")
    missing = [word for word, value in (
        ("number of multiprocessors", gpu.sm_count), ("clock", gpu.clock_hz),
        ("memory bandwidth", gpu.memory_bandwidth_bytes_per_s),
    ) if value <= 0]  # fmt: skip
    if missing:
        raise UnknownPeak(f"The report does not say the {' and '.join(missing)} of {gpu.name}.")
    unit, flops_per_s = _rate(gpu, rates, dtype)
    of_quantized = _rate(gpu, rates, quantized or dtype)
    return Peaks(gpu.name, unit, flops_per_s, float(gpu.memory_bandwidth_bytes_per_s), *of_quantized)


def _rate(gpu: Gpu, rates: dict[str, int], dtype: str) -> tuple[str, float]:
    """What multiplies weights of a type, and how many operations a second it makes."""
    unit = next((unit for unit in _UNITS.get(dtype, ()) if unit in rates), None)
    if unit is None:
        raise UnknownPeak(f"{gpu.name} has no known peak for weights of type {dtype or '(none named)'}.")
    halved = any(word in gpu.name.split() and unit not in whole for word, whole in WHOLE.items())
    return unit, gpu.sm_count * rates[unit] * gpu.clock_hz / (2 if halved else 1)
