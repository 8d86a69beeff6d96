"""What a run observed on the host: times of stages and steps. GPU times come from the report, not from here."""

from __future__ import annotations

from attrs import define, field


@define
class StageTiming:
    """One prefill or decode as the host saw it; nanoseconds of `time.perf_counter_ns`.

    `tokens`: the prompt's for a prefill, the decode steps for a decode, None where it is not known.
    """

    stage: str
    request: int = 0
    start_ns: int = 0
    duration_ns: int = 0
    tokens: int | None = None


@define
class RequestTiming:
    """One call of `generate()` as the host saw it; `steps_ns` are the durations of its decode steps."""

    request: int
    prompt_tokens: int | None = None
    start_ns: int = 0
    duration_ns: int = 0
    stages: list[StageTiming] = field(factory=list)
    steps_ns: list[int] = field(factory=list)


@define
class BatchStep:
    """One step of a serving loop: requests and tokens that it computed, and the tokens that requests got from it.

    Context is what has no new token yet; `new_tokens` leaves out those that were sampled for nothing, as of a request
    that had ended. Times are the host's, from the making of the inputs until the outputs are asked for.
    """

    context_requests: int
    context_tokens: int
    generation_requests: int
    generation_tokens: int
    new_tokens: int = 0
    start_ns: int = 0
    duration_ns: int = 0
