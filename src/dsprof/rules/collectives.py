"""Collectives: what a kernel of the family ``communication`` does among ranks, by its name; the first rule that fits.

The rules hold both of NCCL's vocabularies (``ncclKernel_AllReduce_RING_LL_Sum_float`` and, from 2.19 on,
``ncclDevKernel_AllReduce_Sum_f32_RING_LL``), that from before them (``ncclAllReduceRingLLKernel_sum_f32``), NCCL's
symmetric kernels, and the custom kernels of vLLM, SGLang, TensorRT-LLM, FlashInfer, PyTorch and DeepEP. What no rule
fits is ``other``, as NCCL's ``ncclDevKernel_Generic``, which may be any.
"""

from __future__ import annotations

from collections.abc import Sequence

from dsprof.ground.patterns import first_found
from dsprof.records import frozen
from dsprof.rules.families import LOOKED_AT

#: The family of all of them.
COMMUNICATION = "communication"
OTHER = "other"
#: Every operation with what it is.
OPERATIONS = {
    "all-reduce": "each rank gets the sum over all",
    "all-gather": "each rank gets what all have",
    "reduce-scatter": "each rank gets its part of the sum over all",
    "all-to-all": "each rank gets a part of what each has, as tokens on their way to experts and back",
    "broadcast": "each rank gets what one has",
    "reduce": "one rank gets the sum over all",
    "send-receive": "ranks send and receive, also a group of such calls, as an all-to-all made of them",
    "barrier": "each rank waits for all",
    OTHER: "the name does not say it",
}
#: Those that no rank can be done with before all have begun, so that all end at one moment: clocks are told by them.
ENDS_TOGETHER = frozenset({"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "barrier"})


@frozen
class Rule:
    """Kernels whose demangled name holds the regular expression `pattern` do `operation`, like `example`."""

    operation: str
    pattern: str
    example: str


#: In order. The patterns repeat nothing (`dsprof.ground.patterns`).
RULES = (
    Rule("send-receive", r"Send(_|)Recv|send(_|)recv|ncclSend|ncclRecv|nccl(Dev|)Kernel_(Send|Recv)",
         "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<(unsigned long)4096>)"),
    Rule("reduce-scatter", r"[Rr]educe(_|)[Ss]catter",
         "ncclKernel_ReduceScatter_RING_LL_Sum_half(ncclDevComm *, unsigned long, ncclWork *)"),
    Rule("all-gather", r"[Aa]ll(_|)[Gg]ather", "ncclSymkDevKernel_AllGather_STMC(ncclSymkDevWorkArgs4K)"),
    Rule("all-reduce", r"[Aa]ll(_|)[Rr]educe|cross_device_reduce|multimem_reduce",
         "void vllm::cross_device_reduce_2stage<__nv_bfloat16, (int)2>(vllm::RankData *, …)"),
    Rule("all-to-all", r"[Aa]ll(_|)[Tt]o(_|)[Aa]ll|[Aa]lltoall|::dispatch|::combine|_dispatch\b|_combine\b",
         "void deep_ep::internode_ll::dispatch<(bool)0, (bool)0, (int)7168>(void *, …)"),
    Rule("barrier", r"[Bb]arrier", "nvshmemi_barrier_all_kernel(int)"),
    Rule("broadcast", r"[Bb]road(_|)[Cc]ast|[Bb]cast", "ncclDevKernel_Broadcast_RING_LL(…)"),
    Rule("reduce", r"nccl(Dev|)Kernel_Reduce_|ncclReduce",
         "ncclKernel_Reduce_RING_LL_Sum_float(ncclDevComm *, unsigned long, ncclWork *)"),
)  # fmt: skip


def operations_of(names: Sequence[str]) -> list[str]:
    """What each of some kernels of the family ``communication`` does, by its demangled name.

    >>> operations_of(["ncclDevKernel_AllReduce_Sum_bf16_RING_LL(…)", "ncclDevKernel_Generic(…)"])
    ['all-reduce', 'other']
    """
    first = first_found([rule.pattern for rule in RULES], [name[:LOOKED_AT] for name in names])
    return [RULES[number].operation if number >= 0 else OTHER for number in first]
