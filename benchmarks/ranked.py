"""A small Llama on several ranks, in dsprof's ranges, with a fault planted into one: for `dsprof capture`.

usage: dsprof capture --per-rank -- torchrun --nproc-per-node 2 benchmarks/ranked.py --weights FOLDER [--plant host:1]

Random weights (made by the first rank if FOLDER is empty), tensor parallel as transformers does it (which needs
accelerate), or with ``--parallel data`` a replica on each rank. After each request the ranks agree on its tokens in a
group of their own, so there are two communicators. From `--from-request` on one rank does more after each layer:
``host`` spins, ``gpu`` multiplies, ``copy`` copies pageable memory. With ``overlap`` all ranks reduce a buffer while
their layers run.
Gloo and CPU where there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM, set_seed
from transformers.utils import logging

from dsprof.workloads.segmenter import Segmenter

#: What is planted: nothing, or a kind and the rank that it is planted into.
KINDS = ("none", "host", "gpu", "copy", "overlap")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the model; made if there is none")
    parser.add_argument("--parallel", choices=("tensor", "data"), default="tensor")
    parser.add_argument("--plant", default="none", metavar="KIND:RANK", help=f"one of {', '.join(KINDS)}")
    parser.add_argument("--from-request", type=int, default=2, help="the first that has it, counted from 1")
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=6)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--us", type=int, default=6000, help="how long the host spins after a layer")
    parser.add_argument(
        "--products", type=int, default=8, help="how many matrices of 8192 are multiplied after a layer"
    )
    return parser.parse_args()


def weights(folder: Path, layers: int, hidden: int, dtype: torch.dtype) -> None:
    """Random weights in a folder, the same on each call."""
    set_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=hidden * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=max(hidden // 128, 2),
        num_key_value_heads=max(hidden // 512, 2),
        max_position_embeddings=8192,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)


def planted(kind: str, us: int, products: int, device: torch.device) -> Callable[..., None]:
    """What a rank does after each layer, as a hook."""
    size = 8192 if device.type == "cuda" else 64
    factor = torch.ones(size, size, dtype=torch.bfloat16, device=device)
    source = torch.ones(size, size // 4)

    def host(*_: Any) -> None:
        until = time.perf_counter_ns() + us * 1000
        while time.perf_counter_ns() < until:
            pass

    def gpu(*_: Any) -> None:
        for _again in range(products):
            torch.matmul(factor, factor)

    def copy(*_: Any) -> None:
        source.to(device, copy=True)

    return {"host": host, "gpu": gpu, "copy": copy}[kind]


def overlapping(model: Any, group: Any, device: torch.device) -> None:
    """Let each layer begin to reduce a buffer, and wait for that when it is done."""
    buffer = torch.ones(1 << (24 if device.type == "cuda" else 10), dtype=torch.bfloat16, device=device)
    works = []

    def begin(*_: Any) -> None:
        works.append(dist.all_reduce(buffer, group=group, async_op=True))

    def end(*_: Any) -> None:
        works.pop().wait()

    for layer in model.model.layers:
        layer.register_forward_pre_hook(begin)
        layer.register_forward_hook(end)


def main() -> None:
    """One rank."""
    args = options()
    kind, _, whose = args.plant.partition(":")
    if kind not in KINDS:
        raise SystemExit(f"--plant {args.plant}: the kinds are {', '.join(KINDS)}.")
    logging.disable_progress_bar()
    local, rank, gpu = int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"]), torch.cuda.is_available()
    device, dtype = torch.device("cuda", local) if gpu else torch.device("cpu"), torch.bfloat16
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo")
    agreed = dist.new_group()
    if rank == 0 and not (args.weights / "config.json").exists():
        weights(args.weights, args.layers, args.hidden, dtype)
    dist.barrier()
    how = {"tp_plan": "auto"} if args.parallel == "tensor" else {}
    model = (
        LlamaForCausalLM.from_pretrained(args.weights, dtype=dtype, attn_implementation="sdpa", **how).to(device).eval()
    )
    doing = (
        planted(kind, args.us, args.products, device)
        if kind not in ("none", "overlap") and int(whose) == rank
        else None
    )
    if kind == "overlap":
        overlapping(model, dist.new_group(), device)
    prompt = torch.randint(0, 32000, (1, args.prompt), generator=torch.Generator().manual_seed(1)).to(device)
    with Segmenter(model, "none") as segmenter, torch.inference_mode():
        for request in range(1, args.requests + 1):
            if doing and request == args.from_request:
                for layer in model.model.layers:
                    layer.register_forward_hook(doing)
            tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=args.new,
                                    min_new_tokens=args.new, do_sample=False, pad_token_id=0)  # fmt: skip
            if args.parallel == "tensor":
                dist.broadcast(tokens, 0, group=agreed)
                dist.all_reduce(tokens.float().sum(), group=agreed)
    print(f"rank {rank}: requests of {[one.duration_ns // 1_000_000 for one in segmenter.timings]} ms", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
