"""What the profiled process is asked to do, and what it says afterwards: JSON on both ways, no heavy package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import asdict, define, field, frozen

from dsprof.documents import parse_json
from dsprof.errors import WorkloadFailed
from dsprof.workloads.timing import RequestTiming, StageTiming

#: Names of the two files in a session folder.
JOB, OUTCOME = "job.json", "outcome.json"


@frozen
class Job:
    """One run of the session: each image `repeat` times, `batch` images a request, after `warmup` without ranges."""

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
class Outcome:
    """What the session was and did; `error` is empty, or the error's class, sentence and advice.

    `model_config`: the model's configuration; `dtype`: the type of its weights.
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
        return Outcome(**{**raw, "requests": [_request(one) for one in raw["requests"]]})


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
