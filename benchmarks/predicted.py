"""Does `dsprof whatif` predict what a change brings? Decoders recorded on a GPU, predictions, and the changed programs.

usage: python benchmarks/predicted.py --record FOLDER --nsys NSYS       on a GPU
       python benchmarks/predicted.py [--folder FOLDER] [--out FILE]    anywhere: predictions from what was recorded

Two models of transformers with random weights, DeepSeek-OCR-2 and one like Llama-3.2-1B, decode with a static cache,
one token of each sequence a step, which the host reads. The eager program is recorded; the same decode as a CUDA graph
runs without the profiler. In others a synchronize, a pageable copy or a pause is planted after each layer, in every
second request; the others of the same report are without, as the host is not as quick from one program to the next.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_LAYERS = ("DeepseekOcr2TextDecoderLayer", "LlamaDecoderLayer")
MODELS = {"DeepSeek-OCR-2": "full", "Llama-like": "llama"}
BATCHES = (1, 64)
SAMPLES = Path(__file__).resolve().parent.parent / "traces" / "samples"
#: What was measured beside each report.
FIGURES = "predicted.json"
PROMPT, STEPS, REQUESTS, PAUSE_S, COPIED = 256, 16, 3, 0.0002, 4 << 20
#: What is planted after each layer.
PLANTED = ("synchronize", "pageable copy", "pause")


def program(model: str, batch: int, variant: str) -> None:
    """Run one of them, and print what a step took in each request as the host saw it, in ms, and the model's layers."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    built = _built(torch, model, device)
    layers = [module for module in built.modules() if type(module).__name__ in _LAYERS]
    planted = _planted(torch, variant, device)
    decoder = _Decoder(torch, built, batch, device)
    with torch.inference_mode():
        decoder.serve("", decoder.step, 4)
        said: dict[str, Any] = {"layers": len(layers), "eager": []}
        for number in range(-2, 2 * REQUESTS if planted else REQUESTS):
            hooks = [layer.register_forward_hook(lambda *_: planted()) for layer in layers if planted and number % 2]
            stage = "without" if planted and not number % 2 else "decode"
            taken = decoder.serve(stage if number >= 0 else "", decoder.step, STEPS)
            if number >= 0:
                said["eager"].append(statistics.mean(taken))
            for hook in hooks:
                hook.remove()
        if variant == "plain":
            graph = decoder.captured()
            said["graph"] = [statistics.mean(decoder.serve("", graph, STEPS)) for _ in range(REQUESTS + 1)][1:]
    print(json.dumps(said))


def _built(torch: Any, model: str, device: str) -> Any:
    """The model with random weights."""
    if model in ("full", "tiny"):
        from dsprof.workloads import tiny

        return tiny.build(model, 0, "bfloat16", device)[0]
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
             "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True}  # fmt: skip
    if device == "cpu":
        sizes |= {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                  "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    finally:
        torch.set_default_dtype(before)


def _planted(torch: Any, variant: str, device: str) -> Callable[[], None] | None:
    """What happens after each layer; None for nothing."""
    if variant == "synchronize":
        return torch.cuda.synchronize if device == "cuda" else lambda: None
    if variant == "pause":
        return _pause
    if variant in ("pageable copy", "pinned copy"):
        host = torch.empty(COPIED, dtype=torch.uint8, pin_memory=variant == "pinned copy" and device == "cuda")
        on_device = torch.empty(COPIED, dtype=torch.uint8, device=device)

        def copy() -> None:
            on_device.copy_(host, non_blocking=True)

        return copy
    return None


def _pause() -> None:
    until = time.perf_counter() + PAUSE_S
    while time.perf_counter() < until:
        pass


class _Decoder:
    """A model that decodes a batch with a static cache; what a step needs stays where it is, so it can be captured."""

    def __init__(self, torch: Any, model: Any, batch: int, device: str) -> None:
        from transformers import StaticCache

        self._torch, self._model = torch, model
        text = getattr(model.config, "text_config", model.config)
        self.cache = StaticCache(config=text, max_cache_len=PROMPT + STEPS + 8)
        self.prompt = torch.randint(20, min(text.vocab_size, 256), (batch, PROMPT), device=device)
        self.token = self.prompt[:, -1:].clone()
        self.place = torch.full((1,), PROMPT, device=device)

    def step(self) -> None:
        """One token for each sequence."""
        self.token.copy_(self._next(self.token, self.place))
        self.place.add_(1)

    def _next(self, tokens: Any, place: Any) -> Any:
        places = {"position_ids": place[None], "cache_position": place}
        found = self._model(
            input_ids=tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1, **places
        )  # fmt: skip
        return found.logits[:, -1].argmax(-1, keepdim=True)

    def serve(self, stage: str, step: Callable[[], None], steps: int) -> list[float]:
        """A request, whose decode is in a range called `stage`, with no ranges where that is empty; ms of its steps."""
        from dsprof.workloads.ranges import open_domain
        from dsprof.workloads.segmenter import NoDomain

        domain = open_domain() if stage else NoDomain()
        domain.push("request")
        domain.push("prefill")
        self.cache.reset()
        self.token.copy_(self._next(self.prompt, self._torch.arange(PROMPT, device=self.prompt.device)))
        self.place.fill_(PROMPT)
        self.token.tolist()
        domain.pop()
        domain.push(stage)
        taken = []
        for _ in range(steps):
            begun = time.perf_counter()
            domain.push("decode.step")
            step()
            self.token.tolist()
            domain.pop()
            taken.append(1e3 * (time.perf_counter() - begun))
        domain.pop()
        domain.pop()
        return taken

    def captured(self) -> Callable[[], None]:
        """A step as one CUDA graph."""
        torch = self._torch
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        replay: Callable[[], None] = graph.replay
        return replay


# -- recorded ------------------------------------------------------------------------------------------------


def record(folder: Path, nsys: str, only: Sequence[str]) -> None:
    """Run and record the programs; reports go to the folder, and what was measured beside them to `FIGURES` in it."""
    kinds = [(name, model, batch, "eager") for name, model in MODELS.items() for batch in BATCHES]
    for name, model, batch, kind in [*kinds, *(("Llama-like", "llama", 1, kind) for kind in PLANTED)]:
        report = f"h100-{model}-{batch}-{kind}".replace(" ", "-")
        if only and report not in only:
            continue
        figures: dict[str, Any] = {"model": name, "batch": batch, "kind": kind}
        if kind == "eager":
            plain = _said(_command(model, batch, "plain"), folder)
            figures |= {f"{one}_ms": statistics.median(plain[one]) for one in ("eager", "graph")}
        profile = [nsys, "profile", "--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true",
                   f"--output={folder / report}"]  # fmt: skip
        said = _said([*profile, *_command(model, batch, kind)], folder)
        figures["layers"] = said["layers"]
        export = [nsys, "export", "--type=sqlite", "--force-overwrite=true", f"--output={folder / report}.sqlite"]
        subprocess.run([*export, f"{folder / report}.nsys-rep"], capture_output=True, check=True)
        keep(folder, report, figures)
        print(report, figures, flush=True)


def keep(folder: Path, report: str, figures: dict[str, Any]) -> None:
    """Add what was measured beside a report to what is known already."""
    file = folder / FIGURES
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, report: figures}, indent=1) + "\n")


def _command(model: str, batch: int, variant: str) -> list[str]:
    return [sys.executable, __file__, "--inner", model, str(batch), variant]


def _said(command: list[str], folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            said: dict[str, Any] = json.loads(line)
            return said
    sys.exit(f"{command} said nothing:\n{done.stdout}{done.stderr}")


# -- predicted -----------------------------------------------------------------------------------------------


def predictions(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each report of a folder what was measured, asked, predicted and true, in ms a step, and the error in %.

    `gap_ns`: what between two nodes of a graph would have made the prediction true.
    """
    import dsprof
    from dsprof.model.baseline import node_tracing

    for report, figures in json.loads((folder / FIGURES).read_text()).items():
        path = next(path for path in (folder / f"{report}.sqlite", folder / f"{report}.sqlite.xz") if path.exists())
        analysis = dsprof.analyze(path, stages={"without": "^without$"}, reuse=False)
        recorded = analysis.what_if(stage="decode").stages[0]
        share = 1 - figures["layers"] * PAUSE_S * 1e9 / recorded.step_recorded_ns
        asked, changes = {
            "eager": ("--cuda-graphs", {"cuda_graphs": True}),
            "synchronize": ("--no-sync", {"no_sync": True}),
            "pageable copy": ("--no-pageable", {"no_pageable": True}),
            "pause": (f"--host {share:.3f}x", {"host": share}),
        }[figures["kind"]]
        found = analysis.what_if(stage="decode", **changes).stages[0]
        if figures["kind"] == "eager":
            true = figures["graph_ms"]
        else:
            true = analysis.what_if(stage="without").stages[0].step_recorded_ns / 1e6
        steps = analysis["step_trace"]
        of_requests = steps[steps["steady"]].groupby(["stage", "instance"], observed=True)["duration_ns"].mean() / 1e6
        predicted = found.step_predicted_ns / 1e6 if found.step_predicted_ns is not None else float("nan")
        yield report, {
            **figures, "recorded": recorded.step_recorded_ns / 1e6, "residual": recorded.residual_pct, "asked": asked,
            "predicted": predicted, "true": true, "error": 100 * (predicted / true - 1),
            **{f"{stage}_ms": times.tolist() for stage, times in of_requests.groupby("stage", observed=True)},
            "gap_ns": node_tracing(None).gap_ns + 1e6 * (true - predicted) / steps["gpu_ops"].median(),
            "gpu": analysis.results.report.gpus[0].name, "nsys": analysis.results.report.exporter,
        }  # fmt: skip


def tables(folder: Path) -> str:
    """Both tables as Markdown."""
    rows = [row for _, row in predictions(folder)]
    head = (
        "model",
        "batch",
        "eager, plain",
        "eager, recorded",
        "predicted",
        "graph, plain",
        "error",
        "gap that is right",
    )
    graphs = [
        (row["model"], str(row["batch"]), *(f"{row[one]:.2f}" for one in ("eager_ms", "recorded", "predicted", "true")),
         f"{row['error']:+.1f} %", f"{row['gap_ns'] / 1e3:.2f} us")
        for row in rows if row["kind"] == "eager"
    ]  # fmt: skip
    other = (
        "planted after each layer",
        "recorded",
        "asked",
        "predicted",
        "without it",
        "error",
        "requests with it",
        "without",
    )
    planted = [
        (row["kind"], f"{row['recorded']:.2f}", f"`{row['asked']}`", f"{row['predicted']:.2f}", f"{row['true']:.2f}",
         f"{row['error']:+.1f} %", _range(row["decode_ms"]), _range(row["without_ms"]))
        for row in rows if row["kind"] != "eager"
    ]  # fmt: skip
    where = f"On {' and '.join(dict.fromkeys(row['gpu'] for row in rows))}, under nsys {rows[0]['nsys']}; ms a step."
    worst = max(row["residual"] for row in rows)
    again = f"Run again without a change, no report differed by more than {worst:.2f} %."
    return "\n".join(
        [f"{where} {again}", "", "`--cuda-graphs`:", "", *_table(head, graphs), "", "Without what is planted:", "",
         *_table(other, planted), ""]
    )  # fmt: skip


def _range(times: Sequence[float]) -> str:
    return f"{min(times):.1f} to {max(times):.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]


def main() -> None:
    """Record, or print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inner", nargs=3, metavar=("MODEL", "BATCH", "VARIANT"), help="run this program")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="run and record the programs, on a GPU")
    parser.add_argument("--only", nargs="*", default=[], help="names of reports to record")
    parser.add_argument("--nsys", default="nsys")
    parser.add_argument("--folder", type=Path, default=SAMPLES, help="where the reports are that predictions are from")
    parser.add_argument("--out", type=Path, help="where the tables go as well")
    options = parser.parse_args()
    if options.inner:
        model, batch, variant = options.inner
        program(model, int(batch), variant)
        return
    if options.record:
        options.record.mkdir(exist_ok=True)
        record(options.record, options.nsys, options.only)
        return
    text = tables(options.folder)
    print(text, end="")
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
