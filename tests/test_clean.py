"""What an export made by dsprof, and all else that a capture leaves, has none of: environments and secrets."""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote

import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsprof.capture.record import read_session
from dsprof.capture.secrets import cleaned_command
from dsprof.nsys import sought as seeking
from dsprof.nsys.clean import clean
from dsprof.nsys.scrub import scrub
from dsprof.nsys.sought import GONE, Sought, forms_of
from nsys_stats import AGENT_LOST, OLD, PRIMARY, TRIES, require
from test_arguments import CERTAIN, SECRETS
from trace_builder import NVTX, TraceBuilder, global_pid

#: Made, and visibly so.
WITHHELD, ARGUMENT, LONELY, HARMLESS = "FAKEwithheld/0001", "FAKEargument+0002", "FAKElonely0003", "FAKEharmless0004"
COMMAND = ["serve.py", "--api-key", ARGUMENT, f"--store=https://me:{ARGUMENT}@db.example/x", "--max-tokens", "512"]


def written(secret: str) -> list[str]:
    """A secret as programs write it: plain, in a URL, in JSON, in base64 with anything before it."""
    encoded = [base64.b64encode(f"{before}{secret} and more".encode()).decode() for before in ("", "x", "xy")]
    return [secret, quote(secret, safe=""), json.dumps(secret), f"{secret}s", *encoded]


def traces_of(secret: str, content: bytes) -> list[bytes]:
    return [form for form in forms_of(secret.encode()) if form in content]


def made(
    version: str, secrets: tuple[str, ...] = (WITHHELD, ARGUMENT), command: list[str] = COMMAND, program: str = "python"
) -> TraceBuilder:
    """An export as nsys makes it, with environment, command line and output, and texts in which secrets recur."""
    report = TraceBuilder(version).gpu().range("prefill", 0, 100, payload=7).range("layer=3", 10, 20)
    report.kernel("void gemm<float>(int)", at=(50, 60), call=(10, 20))
    for secret in secrets:
        for text in written(secret):
            report.range(f"registered {text}", 20, 30).range(f"inline {text}", 30, 40, registered=False)
    report.string(f"PATH=/bin\0API_TOKEN={WITHHELD}\0NOTE={HARMLESS}")
    report.string(f"ONLY_TOKEN={LONELY}")
    variables = {"API_TOKEN": WITHHELD, "NOTE": HARMLESS}
    parted = ("\0" if version < "2023" else ";").join(f"{name}={value}" for name, value in variables.items())
    report.row("TARGET_INFO_SYSTEM_ENV", name="DeviceEnvironment", nameEnum=1, value=parted)
    report.row("TARGET_INFO_SYSTEM_ENV", name="NvDriverVersion", nameEnum=2, value="580.159.04")
    report.row("PROCESSES", globalPid=global_pid(77), pid=77, name=f"other --token {WITHHELD}")
    for output in (f"{HARMLESS} {ARGUMENT}\n", "prefill"):
        report.row(
            "ProcessStreams", globalPid=global_pid(77), filenameId=report.string("out"), contentId=report.string(output)
        )
    if "META_DATA_CAPTURE" in report.schema.tables:
        for name, value in variables.items():
            report.row("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT_VARIABLE", value=f'{name}="{value}"')
        for number in reversed(range(len(command))):
            report.row("META_DATA_CAPTURE", name=f"PROCESS_0:ARGUMENT_{number}", value=command[number])
        report.row("META_DATA_CAPTURE", name="PROCESS_0:COMMAND", value=program)
    return report


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_environment_output_and_secrets_are_in_no_form_in_an_export(schema: str, tmp_path: Path) -> None:
    path = made(schema).write(tmp_path / "made.sqlite")
    for secret in (WITHHELD, ARGUMENT, LONELY, HARMLESS):
        assert traces_of(secret, path.read_bytes())
    clean(path, COMMAND)
    for secret in (WITHHELD, ARGUMENT, LONELY, HARMLESS):
        assert traces_of(secret, path.read_bytes()) == [], secret


def test_what_is_no_secret_stays(schema: str, tmp_path: Path) -> None:
    """Also a range named like an assignment, and one named as the program's whole output."""
    path = made(schema).write(tmp_path / "made.sqlite")
    before = rows(path, f"SELECT rowid, start, end, textId, int64Value FROM {NVTX}")
    clean(path, COMMAND)
    assert rows(path, f"SELECT rowid, start, end, textId, int64Value FROM {NVTX}") == before
    texts = {text for (text,) in rows(path, "SELECT value FROM StringIds")}
    assert {"prefill", "layer=3", "void gemm<float>(int)", "registered <removed>", "registered <removed>s"} <= texts
    assert rows(path, "SELECT value FROM TARGET_INFO_SYSTEM_ENV") == [("580.159.04",)]
    if schema > "2023":
        arguments = "SELECT value FROM META_DATA_CAPTURE WHERE name LIKE '%ARGUMENT%' ORDER BY name"
        assert [value for (value,) in rows(path, arguments)] == [
            "serve.py", "--api-key", "<removed>", "--store=https://me:<removed>@db.example/x", "--max-tokens", "512",
        ]  # fmt: skip


def test_what_whoever_exports_keeps_secret_is_taken_out_too(tmp_path: Path) -> None:
    path = TraceBuilder().range(f"with {LONELY}", 0, 9).write(tmp_path / "made.sqlite")
    with patch.dict(os.environ, {"OWN_TOKEN": LONELY}):
        clean(path)
    assert traces_of(LONELY, path.read_bytes()) == []


def test_an_export_with_other_tables_and_columns_is_no_error(tmp_path: Path) -> None:
    for number, declared in enumerate(("StringIds (name, value)", "META_DATA_EXPORT (id)", '"a ""b" (x TEXT)')):
        path = tmp_path / f"{number}.sqlite"
        with closing(sqlite3.connect(path)) as database:
            database.execute(f"CREATE TABLE {declared}")
        clean(path, COMMAND)
        assert rows(path, "SELECT count(*) FROM sqlite_master") == [(1,)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from([form for form in CERTAIN if "p@{}" not in form]), secret=SECRETS)
def test_no_export_and_no_record_holds_a_secret_of_the_command_line(form: str, secret: str, tmp_path: Path) -> None:
    if "/" in secret and ("://" in form or "-u" in form):
        secret = secret.replace("/", "x")  # it would end the name of the host there
    command = shlex.split(form.format(secret))
    path = made("2024.2.3", (secret,), command, "run").write(tmp_path / "made.sqlite")
    clean(path)
    assert traces_of(secret, path.read_bytes()) == []
    assert secret not in "\0".join(cleaned_command(command))


# -- texts --------------------------------------------------------------------------------------------------


@given(st.binary(min_size=8, max_size=40), st.binary(max_size=8), st.binary(max_size=8))
def test_base64_is_known_at_any_place(raw: bytes, before: bytes, after: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + raw + after)
        assert any(form in encoded for form in forms_of(raw))


@given(st.lists(st.sampled_from([WITHHELD.encode(), b"FAKE", b"x", b"a line\n"]), max_size=40), st.integers(1, 50))
def test_a_log_is_cleaned_wherever_its_blocks_end(parts: list[bytes], block: int) -> None:
    wanted, sought, target = b"".join(parts).replace(WITHHELD.encode(), GONE), Sought(), io.BytesIO()
    sought.secret(WITHHELD, "a test")
    with patch.object(seeking, "_BLOCK", block):
        assert sought.is_in(io.BytesIO(b"".join(parts))) == (WITHHELD.encode() in parts)
        sought.copy_without(io.BytesIO(b"".join(parts)), target)
    assert target.getvalue() == wanted


# -- scrub --------------------------------------------------------------------------------------------------


def test_scrub_knows_secrets_of_the_command_line_in_every_form(schema: str, tmp_path: Path) -> None:
    path = made(schema).write(tmp_path / "made.sqlite")
    content = scrub(path, tmp_path / "safe.sqlite").target.read_bytes()
    sought = (WITHHELD, LONELY, HARMLESS) if schema < "2023" else (WITHHELD, ARGUMENT, LONELY, HARMLESS)
    for secret in sought:
        assert traces_of(secret, content) == [], secret


def test_scrub_takes_known_kinds_of_token_out_of_texts_that_stay(tmp_path: Path) -> None:
    """Also where neither environment nor command line tell of it."""
    token = "hf" + "_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA"
    report = TraceBuilder().range(f"POST https://me:{LONELY}@x.example token=12345678", 0, 9).range(token, 0, 9)
    safe = scrub(report.write(tmp_path / "made.sqlite"), tmp_path / "safe.sqlite").target
    texts = {text for (text,) in rows(safe, "SELECT value FROM StringIds")}
    assert {"POST https://me:<removed>@x.example token=12345678", "<removed>"} <= texts


def test_scrub_knows_the_user_though_the_export_has_no_environment(tmp_path: Path) -> None:
    path = TraceBuilder().range("call alice on buildbox7", 0, 9).write(tmp_path / "made.sqlite")
    clean(path)
    with patch.dict(os.environ, {"HOME": "/home/alice", "USER": "alice", "HOSTNAME": "buildbox7"}):
        safe = scrub(path, tmp_path / "safe.sqlite").target
    assert ("call <removed> on <removed>",) in rows(safe, "SELECT value FROM StringIds")


# -- a capture ----------------------------------------------------------------------------------------------

PROGRAM = """
import base64, json, os, subprocess, sys, time, urllib.parse
from dsprof.workloads.ranges import annotate
from dsprof.workloads.toy import serve
waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
child = subprocess.Popen(waits, env={"ONLY_TOKEN": "%s"}, stdin=subprocess.PIPE)
said = [" ".join(sys.argv), "%s", os.environ["NOTE"]]
for text in said:
    for form in (text, urllib.parse.quote(text, safe=""), json.dumps(text), base64.b64encode(text.encode()).decode()):
        print(form, flush=True)
        if text is not said[2]:
            with annotate(form):
                time.sleep(0.01)
serve(0, 2)
time.sleep(0.3)
child.communicate(b"")
"""
SAID = {
    "--token=": "FAKEcommand0101", "--password ": "FAKEcommand0202", "-p": "FAKEcommand0303",
    "https://me:": "FAKEcommand0404", "-H Authorization:\\ Bearer\\ ": "FAKEcommand0505",
}  # fmt: skip


def everything_in(path: Path) -> bytes:
    """All bytes of a file, and what is packed in it."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    table = pyarrow.parquet.read_table(path)
    return path.read_bytes() + repr((table.schema.metadata, table.to_pylist())).encode()


@pytest.mark.nsys
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", [PRIMARY, OLD])
def test_what_a_capture_leaves_holds_no_secret(which: str, tmp_path: Path) -> None:
    words = shlex.split(
        " ".join(f"{option}{secret}" for option, secret in SAID.items()).replace("0404", "0404@x.example")
    )
    program = [sys.executable, "-c", PROGRAM % (LONELY, WITHHELD), *words, "--max-tokens", "512"]
    variables = {**os.environ, "OWN_TOKEN": WITHHELD, "NOTE": HARMLESS, "GIVEN_TOKEN": "FAKEgiven0005"}
    for number in range(TRIES):
        out = tmp_path / str(number)
        done = subprocess.run(
            [sys.executable, "-m", "dsprof", "capture", "--out", out, "--nsys", require(which).path, "--env",
             "GIVEN_TOKEN", "--", *program],
            capture_output=True, text=True, env=variables, check=False,
        )  # fmt: skip
        if AGENT_LOST not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    assert "to pass on: all but the .nsys-rep" in done.stdout
    (folder,) = out.iterdir()
    left = {path.name: everything_in(path) for path in folder.rglob("*") if path.is_file()}
    assert {"run.nsys-rep", "run.sqlite", "session.json", "workload.log", "range_trace.parquet"} <= set(left)
    assert b"FAKEcommand0101" in left.pop("run.nsys-rep")
    for name, content in left.items():
        for secret in (*SAID.values(), LONELY, WITHHELD, "FAKEgiven0005"):
            code = name == "session.json" and secret == LONELY  # the text of the program itself, no argument of it
            assert code or traces_of(secret, content) == [], (name, secret)
        assert name == "workload.log" or traces_of(HARMLESS, content) == [], name
    assert HARMLESS.encode() in left["workload.log"]  # what the program said, and no secret
    assert b"prefill" in left["range_trace.parquet"]
    assert read_session(folder).command[-2:] == ("--max-tokens", "512")
