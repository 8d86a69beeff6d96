"""What the profiled process is asked to do, and what it says afterwards: JSON on both ways, no heavy package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import asdict, define, field

from dsprof.errors import WorkloadFailed
from dsprof.ground.documents import parse_json
from dsprof.records import frozen
from dsprof.workloads.timing import BatchStep, RequestTiming, StageTiming

#: Names of the two files in a session folder.
JOB, OUTCOME = "job.json", "outcome.json"


@frozen
class Job:
    """One run of the session: each image `repeat` times, `batch` images a request, after `warmup` without ranges.

    `ranges`: False opens none at all, and takes the host's times alone. `serve`: not images are read, but as many
    prompts of random tokens are served by transformers' continuous batching, the longest of `prompt_tokens` (None: as
    the model's size is); `arrival_rate`: requests that come in a second, None for all at once; `batching`: settings of
    its ContinuousBatchingConfig.
    """

    images: tuple[str, ...]
    prompt: str
    model: str = "tiny"
    max_new_tokens: int = 64
    repeat: int = 1
    batch: int = 1
    warmup: int = 1
    modules: str = "stages"
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    use_flash_attn: bool | None = None
    trust_remote_code: bool = False
    ranges: bool = True
    serve: int = 0
    prompt_tokens: int | None = None
    arrival_rate: float | None = None
    batching: dict[str, Any] = field(factory=dict)


@define
class RequestRecord:
    """One request: which image, what it gave, what it took on the host.

    `views`: how many pictures of which height and width the vision tower was given for it; None where not known.
    """

    image: str
    prompt_tokens: int
    new_tokens: int
    text: str
    timing: RequestTiming
    views: list[list[int]] | None = None


@define
class ServedRequest:
    """One request of a serving loop, as its library hands it out; nanoseconds of `time.perf_counter_ns`.

    `status`: the library's word for how it ended; `asked_tokens`: how many new ones it may have. The times are None
    where it did not come so far: added to the queue, first scheduled, first new token taken, ended.
    """

    request: str
    asked_tokens: int
    prompt_tokens: int
    new_tokens: int
    status: str
    error: str = ""
    added_ns: int | None = None
    scheduled_ns: int | None = None
    first_token_ns: int | None = None
    ended_ns: int | None = None


@define
class Totals:
    """Sums over the requests and over the steps of a serving loop; a request counts once in each step that has it."""

    requests: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    steps: int = 0
    context_requests: int = 0
    context_tokens: int = 0
    generation_requests: int = 0
    generation_tokens: int = 0


@define
class Served:
    """What a serving loop did, by its own count: its settings, its requests, its steps, and their sums."""

    settings: dict[str, Any] = field(factory=dict)
    requests: list[ServedRequest] = field(factory=list)
    steps: list[BatchStep] = field(factory=list)
    totals: Totals = field(factory=Totals)


@define
class Outcome:
    """What the session was and did; `error` is empty, or the error's class, sentence and advice.

    `model_config`: the model's configuration; `dtype`: the type of its weights. `served`: of a serving loop.
    """

    versions: dict[str, str] = field(factory=dict)
    device: str = ""
    device_name: str = ""
    attention: dict[str, str] = field(factory=dict)
    parameters: int = 0
    requests: list[RequestRecord] = field(factory=list)
    error: list[str] = field(factory=list)
    dtype: str = ""
    model_config: dict[str, Any] = field(factory=dict)
    served: Served | None = None


def write_json(path: Path, document: Any) -> None:
    """Write an attrs object as JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    text = json.dumps(asdict(document), indent=1, ensure_ascii=False)
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # a file's name may be any bytes
    partial.replace(path)


def read_job(path: Path) -> Job:
    """The job in a file. Raises `WorkloadFailed` for something else."""
    with _reading(path):
        raw = parse_json(path.read_text(encoding="utf-8"))
        return Job(**{**raw, "images": tuple(raw["images"])})


def read_outcome(path: Path) -> Outcome:
    """The outcome in a file. Raises `WorkloadFailed` for something else."""
    with _reading(path):
        raw = parse_json(path.read_text(encoding="utf-8"))
        parts = {"requests": [_request(one) for one in raw["requests"]], "served": _served(raw.get("served"))}
        return Outcome(**{**raw, **parts})


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise WorkloadFailed(
            f"{path.name} of the session cannot be read ({error!r:.200}).", "Capture again: it was cut, or changed."
        ) from error


def _request(raw: dict[str, Any]) -> RequestRecord:
    timing = raw["timing"]
    stages = [StageTiming(**stage) for stage in timing["stages"]]
    return RequestRecord(**{**raw, "timing": RequestTiming(**{**timing, "stages": stages})})


def _served(raw: dict[str, Any] | None) -> Served | None:
    if raw is None:
        return None
    requests = [ServedRequest(**one) for one in raw["requests"]]
    steps = [BatchStep(**one) for one in raw["steps"]]
    return Served(raw["settings"], requests, steps, Totals(**raw["totals"]))
