"""SGLang: the scheduler's ``run_batch``, which does not say what it runs, or the labels of its steps, which do.

Source: sglang/srt/utils/nvtx_utils.py and sglang/srt/utils/profile_utils.py, of SGLang 0.5.23.
"""

from __future__ import annotations

from dsprof.arrays import NULL
from dsprof.rules.engines._engine import COUNT, Engine, Form, Step
from dsprof.words import DECODE, EMPTY, MIXED, PREFILL, UNKNOWN

_MODES = {"extend": PREFILL, "split_prefill": PREFILL, "decode": DECODE, "verify": DECODE, "mixed": MIXED,
          "idle": EMPTY}  # fmt: skip


def _of_its_phase(step: Step, word: str) -> Step:
    """A step whose label has one number of requests, and perhaps of tokens: those of its phase."""
    mode = _MODES.get(word.casefold(), UNKNOWN)
    requests, tokens = step.generation_requests, step.generation_tokens
    if mode == PREFILL:
        step = Step(context_requests=requests, context_tokens=tokens, generation_requests=0, generation_tokens=0)
    elif mode == DECODE:
        one_each = tokens == NULL and word.casefold() == "decode"
        step = step._replace(context_requests=0, context_tokens=0, generation_tokens=requests if one_each else tokens)
    elif mode == EMPTY:
        step = Step(context_requests=0, context_tokens=0, generation_requests=0, generation_tokens=0)
    else:
        step = Step()
    return step._replace(mode=mode)


ENGINE = Engine(
    "sglang",
    "SGLang",
    (
        Form(
            "step labels",
            ("step[",),
            rf"step\[(?P<mode>[A-Z_0-9]{{1,40}}) bs=(?P<generation_requests>{COUNT})"
            rf"(?: toks=(?P<generation_tokens>{COUNT}))?[^\]]*\](?:, .*)?",
            _of_its_phase,
        ),
        Form(
            "run_batch",
            ("scheduler.run_batch",),
            r"scheduler\.run_batch",
            because="its scheduler does not say what it runs; where there are CUDA graphs, a step that launches one to "
            "three of them is taken for a decode",
            by_graphs=True,
        ),
    ),
    after="the results of the batch before, and the scheduler",
    switch="SGLang writes its scheduler's ranges only with SGLANG_ENABLE_NVTX_SCHEDULER=1.",
)
