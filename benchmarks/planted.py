"""Do verdicts say what is so? Programs with one planted cause each, recorded on a GPU, and what dsprof says of them.

usage: python benchmarks/planted.py --nsys NSYS [--out PLANTED.md] [--only KIND ...]

A small decoder with random weights serves four requests, each a prefill and a decode of sixteen steps, after two that
warm it up. In each program something is planted that an engineer would plant by mistake. Each also runs without the
profiler, which says what a step takes then; the one whose step is a CUDA graph says what an eager step could take.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What is planted, and what a verdict on the decode should say; "" where any is right.
PLANTED = {
    "nothing": "launch-bound",
    "a pause of 1 ms after each layer": "host-bound",
    "a synchronize after each layer": "launch-bound",
    "a pageable copy of 4 MiB after each layer": "",
    "a pageable copy of 32 MiB after each layer": "copy-bound",
    "no caching of memory": "",
    "no warm-up": "launch-bound",
    "a slow host in the first two requests": "launch-bound",
    "a batch of 4096": "GPU-bound",
    "steps that are CUDA graphs": "",
}
LAYERS, WIDTH, HEADS, CONTEXT, STEPS, REQUESTS = 16, 1024, 16, 512, 16, 4


def program(kind: str) -> None:
    """Run one of them, and print the milliseconds of a step as the host sees them."""
    import torch
    from torch.cuda import nvtx

    torch.manual_seed(0)
    batch = 4096 if kind == "a batch of 4096" else 1
    context = 32 if batch > 1 else CONTEXT
    layers = [_layer(torch, batch, context) for _ in range(LAYERS)]
    copied = (32 if "32 MiB" in kind else 4) << 20
    host, device = torch.empty(copied, dtype=torch.uint8), torch.empty(copied, dtype=torch.uint8, device="cuda")
    slow = kind == "a slow host in the first two requests"
    after: dict[str, Callable[[], Any]] = {
        "a pause of 1 ms after each layer": lambda: time.sleep(0.001),
        "a synchronize after each layer": torch.cuda.synchronize,
        "a pageable copy of 4 MiB after each layer": lambda: device.copy_(host),
        "a pageable copy of 32 MiB after each layer": lambda: device.copy_(host),
    }
    planted = after.get(kind, lambda: None)

    def step(x: Any, number: int) -> Any:
        for layer in layers:
            x = layer(x)
            planted()
            if slow and number < 2:
                until = time.perf_counter() + 0.0003
                while time.perf_counter() < until:
                    pass
        return x

    static = torch.randn(batch, 1, WIDTH, device="cuda", dtype=torch.bfloat16)
    run = _as_graph(torch, static, step) if kind == "steps that are CUDA graphs" else step
    taken: list[float] = []
    with torch.inference_mode():
        for number in range(0 if kind == "no warm-up" else -2, REQUESTS):
            _serve(nvtx, torch, static, run, number, taken)
    print(f"{1e3 * sorted(taken)[len(taken) // 2]:.3f}")


def _serve(nvtx: Any, torch: Any, x: Any, step: Callable[[Any, int], Any], number: int, taken: list[float]) -> None:
    """One request; those of a negative number have no ranges."""
    push, pop = (nvtx.range_push, nvtx.range_pop) if number >= 0 else (lambda name: None, lambda: None)
    push("request")
    push("prefill")
    step(x, number).sum().item()
    pop()
    push("decode")
    for _ in range(STEPS):
        begin = time.perf_counter()
        push("decode.step")
        step(x, number).sum().item()
        pop()
        if number >= REQUESTS // 2:
            taken.append(time.perf_counter() - begin)
    pop()
    pop()


def _layer(torch: Any, batch: int, context: int) -> Callable[[Any], Any]:
    """A layer of a decoder with a cache: norm, attention, norm, MLP."""
    functional = torch.nn.functional

    def weights(*shape: int) -> Any:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) / shape[-1] ** 0.5

    qkv, out, up, down = (
        weights(3 * WIDTH, WIDTH),
        weights(WIDTH, WIDTH),
        weights(4 * WIDTH, WIDTH),
        weights(WIDTH, 4 * WIDTH),
    )
    keys, values = (weights(batch, HEADS, context, WIDTH // HEADS) for _ in range(2))

    def layer(x: Any) -> Any:
        q, k, v = functional.linear(functional.layer_norm(x, (WIDTH,)), qkv).chunk(3, -1)
        q = q.view(batch, 1, HEADS, -1).transpose(1, 2)
        keys[:, :, 0], values[:, :, 0] = k.view(batch, HEADS, -1), v.view(batch, HEADS, -1)
        seen = functional.scaled_dot_product_attention(q, keys, values)
        x = x + functional.linear(seen.transpose(1, 2).reshape(batch, 1, WIDTH), out)
        return x + functional.linear(functional.silu(functional.linear(functional.layer_norm(x, (WIDTH,)), up)), down)

    return layer


def _as_graph(torch: Any, x: Any, step: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """A step as one CUDA graph."""
    side = torch.cuda.Stream()
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(3):
            step(x, 0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        result = step(x, 0)

    def replay(_: Any, number: int) -> Any:
        graph.replay()
        return result

    return replay


def recorded(kind: str, nsys: str, folder: Path) -> tuple[float, float, Any]:
    """Milliseconds of a step without the profiler and with it, and the verdict on the decode."""
    import dsprof

    command = [sys.executable, __file__, "--inner", kind]
    environment = {**os.environ, "TMPDIR": str(folder)}
    if kind == "no caching of memory":
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    plain = float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    profile = [nsys, "profile", "--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--cuda-graph-trace=node",
               "--force-overwrite=true", f"--output={folder / 'run'}"]  # fmt: skip
    said = subprocess.run([*profile, *command], env=environment, capture_output=True, text=True, check=False).stdout
    export = [nsys, "export", "--type=sqlite", "--force-overwrite=true", f"--output={folder / 'run.sqlite'}"]
    subprocess.run([*export, str(folder / "run.nsys-rep")], env=environment, capture_output=True, check=True)
    analysis = dsprof.analyze(folder / "run.sqlite", reuse=False)
    profiled = next(float(word) for word in said.split() if word.replace(".", "", 1).isdigit())
    return plain, profiled, analysis


def main() -> None:
    """Run all of them, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inner", help="run this program, under a profiler or not")
    parser.add_argument("--nsys", default="nsys")
    parser.add_argument("--out", type=Path, help="where the table goes as well")
    parser.add_argument("--only", nargs="*", default=list(PLANTED))
    options = parser.parse_args()
    if options.inner:
        return program(options.inner)
    lines = ["| planted | should be | ms a step, plain | profiled | warm-up | what dsprof says of the decode |",
             "|---|---|---:|---:|---:|---|"]  # fmt: skip
    wrong = 0
    for kind in options.only:
        with tempfile.TemporaryDirectory() as folder:
            plain, profiled, analysis = recorded(kind, options.nsys, Path(folder))
            verdicts = [one for one in analysis.summary().verdicts if one.stage == "decode"]
            warm = int((~analysis["stage_trace"]["steady"]).sum())
        said = verdicts[0].sentence if verdicts else "nothing"
        wrong += bool(PLANTED[kind] and verdicts[0].kind != PLANTED[kind])
        lines.append(f"| {kind} | {PLANTED[kind] or '-'} | {plain:.2f} | {profiled:.2f} | {warm} of 8 | {said} |")
        print(lines[-1], flush=True)
    report = analysis.results.report
    lines = [f"On one {report.gpus[0].name}, under nsys {report.exporter}:", "", *lines]
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
