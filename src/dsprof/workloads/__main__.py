"""The profiled process: ``python -m dsprof.workloads FOLDER`` does the job in that folder and says how it went."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from dsprof.errors import DsprofError, ModelUnusable, WorkloadFailed
from dsprof.ground.versions import installed
from dsprof.workloads import serve
from dsprof.workloads.deepseek_ocr import DeepSeekOCRSession, plain_config, resolved_attention
from dsprof.workloads.job import JOB, OUTCOME, Job, Outcome, RequestRecord, read_job, write_json
from dsprof.workloads.ranges import open_domain
from dsprof.workloads.segmenter import NoDomain
from dsprof.workloads.tiny import SIZES

_PACKAGES = ("torch", "transformers", "nvtx", "flash-attn")


def main(folder: Path) -> int:
    """Do the job; the exit code is 0, or that of the error which is also in the outcome."""
    job, outcome = read_job(folder / JOB), Outcome(versions=_versions())
    try:
        run(job, outcome)
    except DsprofError as error:
        if isinstance(error, ModelUnusable) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)  # for the log: one sentence cannot say where it broke
        return _failed(outcome, error)
    except Exception as error:
        traceback.print_exception(error)
        said = ": ".join(filter(None, (type(error).__name__, str(error).strip().partition("\n")[0][:300])))
        return _failed(outcome, WorkloadFailed(f"The session ended with {said.rstrip('.')}."))
    except KeyboardInterrupt:
        print("dsprof: The session was interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        write_json(folder / OUTCOME, outcome)
    return 0


def _failed(outcome: Outcome, error: DsprofError) -> int:
    outcome.error = [type(error).__name__, error.message, error.hint]
    print(f"dsprof: {error}", file=sys.stderr)
    return error.exit_code


def run(job: Job, outcome: Outcome) -> None:
    """Load the model, warm up without ranges, then serve the requests; what is known goes to `outcome` at once."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if job.serve:
        model, device = serve.load(job)
        _tell(outcome, model, device)
        serve.serve(job, model, open_domain() if job.ranges else NoDomain(), outcome)
        return
    session = _session(job)
    _tell(outcome, session.model, session.device)
    images = [image for image in job.images for _ in range(job.repeat)]
    requests = [images[start : start + job.batch] for start in range(0, len(images), job.batch)]
    for _ in range(job.warmup):
        _serve(session, job, requests[0])
    session.served = 0
    if job.ranges:
        session.domain, session.modules = open_domain(), job.modules
    for request in requests:
        outcome.requests += _serve(session, job, request)


def _tell(outcome: Outcome, model: Any, device: str) -> None:
    outcome.device, outcome.device_name, outcome.attention = device, _device_name(device), resolved_attention(model)
    outcome.parameters = sum(weights.numel() for weights in model.parameters())
    outcome.dtype, outcome.model_config = str(model.dtype).removeprefix("torch."), plain_config(model)


def _serve(session: DeepSeekOCRSession, job: Job, images: list[str]) -> list[RequestRecord]:
    if len(images) > 1:
        results = session.run_batch(images, job.prompt, job.max_new_tokens)
    else:
        results = [session.run_inference(images[0], job.prompt, job.max_new_tokens)]
    return [
        RequestRecord(
            Path(image).name, result.prompt_tokens, len(result.token_ids), result.text, result.timing, result.views
        )
        for image, result in zip(images, results, strict=True)
    ]


def _session(job: Job) -> DeepSeekOCRSession:
    if job.model in SIZES:
        return DeepSeekOCRSession.from_random(job.model, job.seed, job.device, job.dtype, job.use_flash_attn)
    return DeepSeekOCRSession.from_local(job.model, job.device, job.use_flash_attn, job.dtype, job.trust_remote_code)


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    return found | {package: version for package in _PACKAGES if (version := installed(package))}


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return ""
    import torch

    return str(torch.cuda.get_device_name(device))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
