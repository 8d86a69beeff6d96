"""Made reports of serving engines: their ranges with the names that they give, around kernels of known truth.

No engine ran: names are those of their sources, times are made up. A step takes 200 ns, of which its range takes 100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from trace_builder import TraceBuilder

#: From the begin of a step to that of the next one, and how long its range takes.
PERIOD, RANGE = 200, 100
#: Kernels that a step launches in its range, and after it; how long each runs.
INSIDE, AFTER = 4, 2
INSIDE_NS, AFTER_NS = 18, 5


class Scheduled(NamedTuple):
    """What a step is made of: requests and tokens of prompts, and of requests that generate."""

    context: int = 0
    prompt: int = 0
    generating: int = 0
    tokens: int = 0

    @property
    def mode(self) -> str:
        """By the numbers of requests."""
        if self.context and self.generating:
            return "mixed"
        return "prefill" if self.context else "decode" if self.generating else "empty"


#: A short life of an engine: a prompt in two chunks beside others that generate, and steps with nothing in them.
LIFE = [
    Scheduled(2, 100), Scheduled(1, 64, 2, 2), Scheduled(1, 36, 2, 2), *[Scheduled(0, 0, 3, 3)] * 5,
    Scheduled(), Scheduled(0, 0, 3, 3), Scheduled(0, 0, 1, 1),
]  # fmt: skip


def vllm(step: Scheduled, number: int = 0) -> str:
    """vLLM from 2026 on."""
    return f"execute_context_{step.context}({step.prompt})_generation_{step.generating}({step.tokens})"


def vllm_detailed(step: Scheduled, number: int = 0) -> str:
    """The same with detailed annotations, each sequence with 1000 tokens in the cache."""

    def phase(requests: int, tokens: int) -> str:
        return f"sq{tokens}sk{1000 * requests}sqsq{tokens**2}sqsk{tokens * 1000}"

    context, generation = phase(step.context, step.prompt), phase(step.generating, step.tokens)
    whole = step.prompt + step.tokens
    return f"execute_{whole}_context_{step.context}({context})_generation_{step.generating}({generation})"


def vllm_old(step: Scheduled, number: int = 0) -> str:
    """vLLM before: new requests and others."""
    return f"execute_new_{step.context}_cached_{step.generating}"


def tensorrt_llm(step: Scheduled, number: int = 0) -> str:
    """TensorRT-LLM from May 2026 on."""
    requests = f"{step.context} ctx reqs, {step.prompt} ctx tokens, {step.generating} gen reqs"
    return f"[Executor] _forward_step {number}: {requests}"


def tensorrt_llm_old(step: Scheduled, number: int = 0) -> str:
    """TensorRT-LLM before."""
    return f"[Executor] _forward_step {number}: {step.context} ctx reqs, {step.generating} gen reqs"


def megatron(step: Scheduled, number: int = 0) -> str:
    """Megatron-Core."""
    return "Prefill" if step.context else "Decode"


def sglang(step: Scheduled, number: int = 0) -> str:
    """SGLang's scheduler."""
    return "scheduler.run_batch"


def sglang_label(step: Scheduled, number: int = 0) -> str:
    """SGLang's label of a step."""
    if step.context:
        return f"step[EXTEND bs={step.context} toks={step.prompt}]"
    return f"step[DECODE bs={step.generating}]" if step.generating else "step[IDLE bs=0]"


def xla(step: Scheduled, number: int = 0) -> str:
    """A module of JAX."""
    return f"XlaModule:#hlo_module=jit_{'prefill' if step.context else 'decode_step'},program_id={number}#"


Name = Callable[[Scheduled, int], str]
#: What stands beside the steps of engines whose names are words that any program may use.
BESIDE = {megatron: "bookkeeping"}


def run(
    life: Iterable[Scheduled] = tuple(LIFE),
    name: Name = vllm,
    report: TraceBuilder | None = None,
    *,
    begin: int = 1000,
    pause_after: dict[int, int] | None = None,
    pid: int = 100,
    tid: int | None = None,
    domain: str | int = "",
    registered: bool = True,
) -> TraceBuilder:
    """A report with these steps on one thread; `pause_after`: ns that pass before the next one, by number."""
    report = TraceBuilder() if report is None else report
    if name in BESIDE:
        report.range(BESIDE[name], begin - 20, begin - 10, pid=pid, tid=tid)
    for number, step in enumerate(life):
        report.range(name(step, number), begin, begin + RANGE, pid=pid, tid=tid, domain=domain, registered=registered)
        for k in range(INSIDE):
            at = begin + 30 + 20 * k
            report.kernel("gemm", at=(at, at + INSIDE_NS), call=(at - 20, at - 15), pid=pid, tid=tid)
        for k in range(AFTER):
            at = begin + RANGE + 20 + 10 * k
            report.kernel("sample", at=(at, at + AFTER_NS), call=(at - 15, at - 12), pid=pid, tid=tid)
        begin += PERIOD + (pause_after or {}).get(number, 0)
    return report
