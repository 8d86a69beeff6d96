"""A toy program with a model's ranges and no model: it shows that a capture of this machine can be read.

``python -m dsprof.workloads.toy [REQUESTS] [TOKENS]``; run it under ``nsys profile --trace=nvtx``.
"""

from __future__ import annotations

import hashlib
import sys

from dsprof.words import REQUEST, STEP
from dsprof.workloads.ranges import annotate, decode_range, prefill_range

PROMPT_TOKENS = 64


def work(rounds: int) -> bytes:
    """Keep the host busy with something that cannot be left out."""
    digest = b"dsprof"
    for _ in range(rounds):
        digest = hashlib.sha256(digest * 32).digest()
    return digest


def serve(request: int, tokens: int) -> None:
    """One request: a prefill, then a decode step for each further token."""
    with annotate(REQUEST, request):
        with prefill_range(PROMPT_TOKENS):
            work(40 * PROMPT_TOKENS)
        with decode_range():
            for step in range(1, tokens):
                with annotate(STEP, step):
                    work(400)


def main(arguments: list[str]) -> None:
    """Serve as many requests as the first argument says, of as many tokens as the second says."""
    requests, tokens = (int(text) for text in [*arguments, "2", "16"][:2])
    for request in range(requests):
        serve(request, tokens)


if __name__ == "__main__":
    main(sys.argv[1:])
