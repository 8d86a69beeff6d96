"""Do all tables say what they said before? A fingerprint of each, to keep at one commit and to compare at another.

usage: python benchmarks/kept.py --out BEFORE.json [--random 200] [REPORT ...]
       python benchmarks/kept.py --against BEFORE.json

Each report (all samples of `traces/samples`, unless some are named) is analyzed whole and in 2 and 13 parts, with the
compiled loops and without; so are random recordings, as `tests/test_properties.py` makes them, from fixed seeds. A
fingerprint is a SHA-256 over all values of a table, texts spelled out, and over findings and summary.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from dsprof.analysis.analyze import Analysis  # noqa: E402
from dsprof.arrays import backend  # noqa: E402
from dsprof.ground.documents import json_pieces  # noqa: E402
from dsprof.nsys.locate import locate  # noqa: E402
from dsprof.nsys.parts import ReportInParts  # noqa: E402
from dsprof.nsys.reader import read  # noqa: E402
from dsprof.tables import all_tables  # noqa: E402

PARTS = (1, 2, 13)


def fingerprint(table: pa.Table) -> str:
    """A hash of names, types and values of a table, whatever the codes of its texts."""
    digest = hashlib.sha256()
    for field, column in zip(table.schema, table.columns, strict=True):
        is_text = pa.types.is_dictionary(field.type)
        values = column.cast(pa.string()) if is_text else column
        known = pc.is_valid(values)
        empty = pa.scalar("" if is_text else 0).cast(values.type) if not pa.types.is_boolean(values.type) else False
        filled = pc.fill_null(values, empty)
        digest.update(repr((field.name, str(values.type), len(values))).encode())
        for each in (known, filled):
            array = each.combine_chunks() if isinstance(each, pa.ChunkedArray) else each
            batch = pa.record_batch([pa.concat_arrays([array]) if isinstance(array, pa.Array) else array], ["v"])
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            digest.update(sink.getvalue())
    return digest.hexdigest()


def analysis_of(path: Path, parts: int) -> Analysis:
    """The analysis of an export, whole or in parts."""
    return Analysis.of(read(path) if parts == 1 else ReportInParts(path, parts), None, path)


def fingerprints(path: Path, parts: int) -> dict[str, str]:
    """Those of all tables, and of findings and summary."""
    analysis = analysis_of(path, parts)
    found = {name: fingerprint(analysis.arrow(name)) for name in all_tables()}
    said = "".join(json_pieces(evolve(analysis.summary(), dsprof="")))
    return {**found, "summary": hashlib.sha256(said.encode()).hexdigest()}


def random_reports(count: int, folder: Path) -> Iterator[Path]:
    """Recordings of a fixed seed as reports."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from test_parts import written
    from test_properties import recordings

    made: list[Any] = []

    @seed(20261126)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(recordings())
    def collect(recording: Any) -> None:
        made.append(recording)

    collect()
    for number, recording in enumerate(made):
        yield written(recording, folder / f"random-{number}.sqlite")


def all_fingerprints(reports: list[Path], count: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Of every report in every way, as they come."""
    with tempfile.TemporaryDirectory() as folder:
        samples = ((report.name.split(".")[0], locate(report)[1].path) for report in reports)
        made = ((path.stem, path) for path in random_reports(count, Path(folder)))
        for label, path in itertools.chain(samples, made):
            for chosen in (backend.NUMPY, backend.choose(True, 1)):
                with backend.using(chosen):
                    for parts in PARTS:
                        loops = "loops" if chosen != backend.NUMPY else "arrays"
                        yield f"{label}/{parts}/{loops}", fingerprints(path, parts)


def main() -> None:
    """Keep fingerprints, or compare with kept ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("reports", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, help="where to keep the fingerprints")
    parser.add_argument("--against", type=Path, help="fingerprints that were kept")
    parser.add_argument("--random", type=int, default=200, help="how many random recordings")
    options = parser.parse_args()
    before = json.loads(options.against.read_text()) if options.against else None
    found, others = {}, 0
    reports = options.reports or sorted((ROOT / "traces" / "samples").glob("*.sqlite.xz"))
    for name, tables in all_fingerprints(reports, options.random):
        found[name] = tables
        if before is not None:
            other = [table for table, value in before.get(name, {"(it)": ""}).items() if tables.get(table) != value]
            others += len(other)
            if other:
                print(f"{name}: {', '.join(other)}", flush=True)
    for name in sorted((before or {}).keys() - found.keys()):
        others += len(before[name])
        print(f"{name}: not analyzed this time", flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{sum(map(len, found.values()))} fingerprints of {len(found)} analyses" +
          (f", {others} of them other than before" if before is not None else ""))  # fmt: skip
    sys.exit(bool(others))


if __name__ == "__main__":
    main()
