"""Files beside a report, or named by an option, that hold something else than they should: JSON and TOML."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from dsprof.errors import DsprofError
from fuzz import bases, hostile, oracles
from fuzz.calls import call, judge
from fuzz.case import Case, Kind, Result

#: Raw JSON that stands where something else was expected; some of it no parser likes.
ODD = (
    "null", "true", "false", "0", "-1", "1", "1e999", "-1e999", "1e308", "0.1", "NaN", "Infinity", "9" * 5_000,
    "9" * 400,
    str(1 << 63), str(1 << 64), str(-(1 << 63)), "65537", "16777217", '""', '"x"', '"12"', '"\\ud800"', '"\\u0000"',
    '"\\u001b[2J"', '"[/x]"', '"bfloat16"', '"float1000000"', json.dumps("x" * 100_000), "[]", "{}", "[[]]", "[null]",
    "[1, 2, 3]", "[[1, 768, 768]]", "[[1e999, 1, 1]]", '{"a": 1}', "[" * 900 + "]" * 900, "[" * 200_000,
    '{"a":' * 900 + "1" + "}" * 900, '{"a":' * 100_000, "", "nul", "'x'", "01", "1 2", "\\", "// x\n1",
)  # fmt: skip
ODD_TOML = (
    '""', '"x"', "1", "1e999", "nan", "9" * 5_000, "[]", "{}", "true", "1979-05-27T07:32:00Z", "[" * 3_000, "'''x",
    '"("', "'[['",
    "'(a+)+$'", "'(?P<x>'", "'\\1'", "'a{9999999999}'", "'(?i'", "'" + "(" * 2_000 + ")" * 2_000 + "'", "'.*'", "''",
    "'" + "a|" * 5_000 + "'", '"\\u0000"', '"\\u001b[2J"', '"\\ud800"', "'a{1,65535}{1,65535}'", "'(?<=a*)b'",
    "'\\p{L}'",
)  # fmt: skip
TARGETS = {
    "model beside": "json", "model named": "json", "session beside": "json", "session named": "json",
    "results": "json", "outcome": "json", "job": "json", "families": "toml",
}  # fmt: skip


def choose(random: Random) -> dict[str, Any]:
    """Which file, and how it is changed."""
    target = random.choice([*sorted(TARGETS), "families", "families"])
    return {"target": target, "change": random.choice(sorted(CHANGES))}


# -- changes --------------------------------------------------------------------------------------------


def value(random: Random, text: str, odd: tuple[str, ...]) -> str:
    """One value anywhere is another."""
    at = random.choice(list(_values(text)) or [(0, len(text))])
    return text[: at[0]] + random.choice(odd) + text[at[1] :]


def two_values(random: Random, text: str, odd: tuple[str, ...]) -> str:
    """Two values are others."""
    return value(random, value(random, text, odd), odd)


def key(random: Random, text: str, odd: tuple[str, ...]) -> str:
    """A name is another, gone, or there twice."""
    names = [(begin, end) for begin, end in _values(text, keys=True)]
    if not names:
        return text
    begin, end = random.choice(names)
    other = random.choice(names)
    return text[:begin] + random.choice(['"other"', '""', text[slice(*other)], '"\\u0000"', '"__class__"']) + text[end:]


def line(random: Random, text: str, odd: tuple[str, ...]) -> str:
    """A line is gone, there twice, or elsewhere."""
    lines = text.splitlines(keepends=True)
    at = random.randrange(len(lines))
    taken = lines.pop(at)
    for _ in range(random.choice([0, 1, 2])):
        lines.insert(random.randrange(len(lines) + 1), taken)
    return "".join(lines)


def cut(random: Random, text: str, odd: tuple[str, ...]) -> str:
    """It ends early, or a piece is missing."""
    begin = random.randrange(len(text))
    return text[:begin] + (text[begin + random.randrange(1, 200) :] if random.random() < 0.5 else "")


def inserted(random: Random, text: str, odd: tuple[str, ...]) -> str:
    """Something is in it."""
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice([*odd, "\0", "\ufeff", "\x1b[2J", ",", "}", "]", '"', "\n"]) + text[at:]


def whole(random: Random, text: str, odd: tuple[str, ...]) -> str:
    """All of it is something else."""
    return random.choice([*odd, "", " ", "\n", "\0" * 100, '{"schema": "dsprof.model/1"}',
    '{"schema": "dsprof.session/9"}',
                          '{"schema": []}', '{"model_type": {}}', "[[family]]\n", "family = 1",
                          "a = 1\n" * 1_000])  # fmt: skip


def name(random: Random, text: str, odd: tuple[str, ...]) -> str:
    """A value is a hostile name."""
    at = random.choice(list(_values(text)) or [(0, 0)])
    return text[: at[0]] + json.dumps(hostile.any_text(random)) + text[at[1] :]


CHANGES: dict[str, Callable[[Random, str, tuple[str, ...]], str]] = {
    one.__name__: one for one in (value, two_values, key, line, cut, inserted, whole, name)
}


def _values(text: str, keys: bool = False) -> Iterator[tuple[int, int]]:
    """Where values, or names, stand in JSON or TOML that is written as `json.dumps` and people write it."""
    import re

    pattern = r'"(?:[^"\\]|\\.)*"(?=\s*:)|^\w+(?=\s*=)' if keys else (
        r'"(?:[^"\\]|\\.)*"(?!\s*:)|\'[^\']*\'|-?\d+(?:\.\d+)?|\btrue\b|\bfalse\b|\bnull\b|\[\]|\{\}'
    )  # fmt: skip
    return ((found.start(), found.end()) for found in re.finditer(pattern, text, re.MULTILINE))


def spoiled(case: Case, text: str) -> bytes:
    """A file's content after the change of this case, now and then also its bytes."""
    random = case.random("change")
    odd = ODD_TOML if TARGETS[case.chosen["target"]] == "toml" else ODD
    changed = CHANGES[case.chosen["change"]](random, text, odd)
    encoding = random.choice(["utf-8"] * 8 + ["utf-16", "utf-8-sig", "latin-1"])
    content = bytearray(changed.encode(encoding, "replace"))
    if random.random() < 0.1 and content:
        content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content)


# -- targets --------------------------------------------------------------------------------------------


def run(case: Case, folder: Path) -> Result:
    """Write the spoiled file where it belongs, and read it as dsprof does."""
    target, result = case.chosen["target"], Result()
    text = documents()[target.split()[0]]
    content = spoiled(case, text)
    result.did = f"{target}: {content[:200]!a}"
    report = bases.copy("made", folder / "run.sqlite")
    if target in ("outcome", "job"):
        _read(target, folder, content, result)
    elif target == "results":
        _results(report, content, result)
    else:
        _analyze(target, report, content, result)
    return result


def _analyze(target: str, report: Path, content: bytes, result: Result) -> None:
    folder = report.parent
    path, options = {
        "model beside": (folder / "run.model.json", []),
        "model named": (folder / "m.json", ["--model-config", folder / "m.json"]),
        "session beside": (folder / "session.json", []),
        "session named": (folder / "s.json", ["--model-config", folder / "s.json"]),
        "families": (folder / "f.toml", ["--families", folder / "f.toml"]),
    }[target]
    path.write_bytes(content)
    ended = judge(call("analyze", report, "--format", "json", *options), result)
    for said in hostile.obeyed(ended.text + ended.err):
        result.found("unsafe", said)
    if ended.code == 0:
        json.loads(ended.out)
        tables = oracles.tables_in(folder / "run.dsprof")
        for said in oracles.negative(tables):
            result.found("wrong", said)
        same = set(tables) - {"stage_roof_trace", "stage_family_sum", "stage_kern_sum", "kern_trace"}
        found, expected = ({name: _of_any_batch(each[name]) for name in same}
                           for each in (tables, bases.expected("made").tables))  # fmt: skip
        if different := list(oracles.differing(found, expected, sorted(same))):
            result.found("wrong", "; ".join(different))


def _of_any_batch(table: Any) -> Any:
    """A table without what a file may say anew: how many sequences a request has."""
    counted = {"batch", "tokens", "tokens_per_s", "prompt_tokens", "new_tokens", "limit_tokens_per_s"}
    return table.drop_columns([name for name in table.column_names if name in counted])


def _results(report: Path, content: bytes, result: Result) -> None:
    """The record of earlier results is spoiled: it is not used, or says what it said."""
    first = call("analyze", report, "--format", "json")
    for path in report.with_suffix(".dsprof").rglob("analysis.json"):
        spoil = Case(
            "documents", int(content[:1].hex() or "0", 16) + len(content), {"target": "results", "change": "value"}
        )
        path.write_bytes(spoiled(spoil, path.read_text()) if content != b"" else b"")
    ended = judge(call("analyze", report, "--format", "json"), result)
    if ended.code == 0 and json.loads(ended.out) != json.loads(first.out):
        result.found("wrong", "a spoiled analysis.json is shown")


def _read(target: str, folder: Path, content: bytes, result: Result) -> None:
    """What the profiled process was asked, and what it answered, as the command that waits for it reads it."""
    from dsprof.workloads import job

    path = folder / f"{target}.json"
    path.write_bytes(content)
    try:
        job.read_outcome(path) if target == "outcome" else job.read_job(path)
    except DsprofError as error:
        result.code = error.exit_code
    except Exception as error:
        result.found("traceback", f"read_{target}: {error!r:.200}")


@cache
def documents() -> dict[str, str]:
    """What the files hold when they are whole."""
    model = json.loads((bases.SAMPLES / "h200-batch.model.json").read_text(encoding="utf-8"))
    timing = {"request": 0, "stages": [{"stage": "prefill", "start_ns": 1, "duration_ns": 2, "tokens": 3}]}
    request = {"image": "page.png", "prompt_tokens": 7, "new_tokens": 3, "text": "text", "timing": timing,
               "views": [[1, 768, 768], [6, 768, 768]]}  # fmt: skip
    outcome = {
        "versions": {"torch": "2"}, "device": "cuda:0", "device_name": "NVIDIA H200", "attention": {"text": "sdpa"},
        "parameters": 3, "requests": [request], "error": [], "dtype": "bfloat16", "model_config": model["config"],
    }  # fmt: skip
    session = {
        "schema": "dsprof.session/1", "created": "2026-01-01T00:00:00", "name": "run", "command": ["python", "x.py"],
        "ending": "finished", "exit_code": 0, "reports": ["run.nsys-rep"], "dtype": "bfloat16",
        "model_config": model["config"], "requests": [request],
    }  # fmt: skip
    job = {"images": ["page.png"], "prompt": "Free OCR.", "model": "tiny", "max_new_tokens": 64, "repeat": 1,
    "batch": 1,
           "warmup": 1, "modules": "stages", "seed": 0, "device": "auto", "dtype": "auto", "use_flash_attn": None,
           "trust_remote_code": False}  # fmt: skip
    rules = ["softmax", "sgemm|gemm", r"^void decode<\d+>"]
    families = "\n".join(f"[[family]]\nname = \"own{at}\"\npattern = '{rule}'\n" for at, rule in enumerate(rules))
    written = {"model": model, "session": session, "outcome": outcome, "job": job, "results": {"made_from": 1}}
    return {"families": families, **{what: json.dumps(one, indent=1) for what, one in written.items()}}


KIND = Kind("documents", 1500, choose, run)
