"""Peaks against what NVIDIA publishes."""

from __future__ import annotations

import doctest

import pytest
from attrs import evolve

from dsprof.model import peaks
from dsprof.model.peaks import RATES, UnknownPeak, link_of, peaks_of
from dsprof.trace import Gpu

H200 = Gpu(0, "NVIDIA H200", "9.0", 132, 1_980_000_000, 4_814_304_000_000)

#: Product, compute capability, multiprocessors, boost clock in MHz, and published dense TFLOP/s by type of weights.
#: From the white papers and data sheets that `dsprof.model.peaks` names; clocks as printed there beside the peaks.
PUBLISHED = [
    ("Tesla V100-SXM2-16GB", "7.0", 80, 1530, {"float16": 125, "float32": 15.7}),
    ("Tesla T4", "7.5", 40, 1590, {"float16": 65, "float32": 8.1, "int8": 130}),
    ("NVIDIA GeForce RTX 2080 Ti", "7.5", 68, 1635, {"float16": 56.9, "float32": 14.2, "int8": 227.7}),
    ("NVIDIA A100-SXM4-80GB", "8.0", 108, 1410, {"bfloat16": 312, "float16": 312, "float32": 156, "int8": 624}),
    ("NVIDIA A40", "8.6", 84, 1740, {"bfloat16": 149.7, "float16": 149.7, "float32": 74.8, "int8": 299.3}),
    ("NVIDIA GeForce RTX 3090", "8.6", 82, 1695, {"bfloat16": 71, "float32": 35.6, "int8": 284}),
    ("NVIDIA L4", "8.9", 58, 2040, {"bfloat16": 121, "float8_e4m3fn": 242.5, "int8": 242.5}),
    ("NVIDIA L40", "8.9", 142, 2490, {"bfloat16": 181.05, "int8": 362.1}),
    ("NVIDIA L40S", "8.9", 142, 2520, {"bfloat16": 362.05, "float8_e4m3fn": 733, "int8": 733}),
    ("NVIDIA GeForce RTX 4090", "8.9", 128, 2520, {"bfloat16": 165.2, "float8_e4m3fn": 330.3, "float32": 82.6,
                                                   "int8": 660.6}),
    ("NVIDIA H100 80GB HBM3", "9.0", 132, 1830, {"bfloat16": 989.4, "float32": 494.7, "float8_e4m3fn": 1978.9}),
    ("NVIDIA H100 PCIe", "9.0", 114, 1620, {"bfloat16": 756, "float32": 378, "float8_e4m3fn": 1513}),
    ("NVIDIA H200", "9.0", 132, 1830, {"bfloat16": 989.4, "float32": 494.7, "float8_e4m3fn": 1979, "int8": 1979}),
    ("NVIDIA B200", "10.0", 148, 1860, {"bfloat16": 2250, "float32": 1125, "float8_e4m3fn": 4500, "int8": 4500}),
    ("NVIDIA GeForce RTX 5090", "12.0", 170, 2407, {"bfloat16": 209.5, "float8_e4m3fn": 419, "float32": 104.8,
                                                    "int8": 838}),
    ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "12.0", 188, 2617, {"bfloat16": 503.8}),
]  # fmt: skip


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_the_rates_give_the_published_peaks(row: tuple[str, str, int, int, dict[str, float]]) -> None:
    name, capability, multiprocessors, megahertz, published = row
    gpu = Gpu(0, name, capability, multiprocessors, megahertz * 1_000_000, 1)
    for dtype, teraflops in published.items():
        assert peaks_of(gpu, dtype).flops_per_s == pytest.approx(teraflops * 1e12, rel=0.02), dtype


def test_every_compute_capability_is_held_against_a_published_product() -> None:
    assert {row[1] for row in PUBLISHED} == set(RATES)


def test_fp32_units_are_those_of_the_programming_guide() -> None:
    """Multiply-adds in a cycle of a multiprocessor: 64 up to 8.0, 128 from 8.6 on."""
    assert {capability: rates["fp32"] // 2 for capability, rates in RATES.items()} == {
        "7.0": 64, "7.5": 64, "8.0": 64, "8.6": 128, "8.9": 128, "9.0": 128, "10.0": 128, "12.0": 128,
    }  # fmt: skip


def test_the_reports_clock_is_above_that_of_the_data_sheet() -> None:
    """The H200 of the samples: its report says 1980 MHz, the data sheet's 989 TFLOP/s are at 1830 MHz."""
    found = peaks_of(H200, "bfloat16")
    assert found.flops_per_s / 989.4e12 == pytest.approx(1980 / 1830, rel=1e-3)
    assert (found.gpu, found.unit, found.bytes_per_s) == ("NVIDIA H200", "bf16", 4_814_304_000_000)


def test_what_multiplies_depends_on_the_type_and_the_gpu() -> None:
    volta = evolve(H200, compute_capability="7.0")
    assert [peaks_of(H200, dtype).unit for dtype in ("float32", "float16", "float8_e5m2")] == ["tf32", "fp16", "fp8"]
    assert [peaks_of(volta, dtype).unit for dtype in ("float32", "bfloat16")] == ["fp32", "fp32"]


@pytest.mark.parametrize(
    ("gpu", "dtype", "sentence"),
    [
        (evolve(H200, compute_capability="6.1"), "float16", "compute capability 6.1; known are 7.0"),
        (evolve(H200, compute_capability=""), "float16", "none in the report"),
        (evolve(H200, clock_hz=0), "float16", "does not say the clock of NVIDIA H200"),
        (evolve(H200, sm_count=0, memory_bandwidth_bytes_per_s=0), "float16", "multiprocessors and memory bandwidth"),
        (H200, "int4", "no known peak for weights of type int4"),
        (evolve(H200, compute_capability="8.0"), "float8_e4m3fn", "no known peak"),
    ],
)
def test_missing_peaks_are_said(gpu: Gpu, dtype: str, sentence: str) -> None:
    with pytest.raises(UnknownPeak, match=sentence):
        peaks_of(gpu, dtype)


def test_the_examples_hold() -> None:
    assert doctest.testmod(peaks).failed == 0


@pytest.mark.parametrize(
    ("names", "gb_per_s"),
    [
        (["NVIDIA H100 80GB HBM3"] * 2, 450), (["NVIDIA H200"], 450), (["NVIDIA A100-SXM4-80GB"] * 8, 300),
        (["Tesla V100-SXM2-32GB"], 150), (["NVIDIA B200"], 900), (["NVIDIA H100 PCIe"], None),
        (["NVIDIA H200 NVL"], None), (["NVIDIA L40S"], None), (["NVIDIA H200", "NVIDIA A100-SXM4-40GB"], None),
        ([], None),
    ],
)  # fmt: skip
def test_the_link_of_gpus_that_have_it_in_every_machine(names: list[str], gb_per_s: int | None) -> None:
    assert link_of(names) == (None if gb_per_s is None else gb_per_s * 1e9)
