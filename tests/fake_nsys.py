"""A stand-in for nsys and its importer, for what the real ones cannot be brought to do.

``install(folder)`` lays it out like an installation; ``FAKE_NSYS`` says how the recording ends,
``FAKE_IMPORTER`` how an import by hand does, ``FAKE_EXPORT`` how an export does.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

REPORT = b"NVIDIA Tegra Profiler Report 2030\n"
#: As nsys 2024.2 says it, on two lines.
NO_AGENT = """/build/QuadD/ProtobufComm/Client/ClientProxy.cpp(389): Throw in function GetLocalEndpoint() const
Dynamic exception type: boost::wrapexcept<QuadDCommon::SystemException>"""


def install(folder: Path, importer: bool = True) -> Path:
    """Install into `folder`; the path of its nsys."""
    names = ["target-linux-x64/nsys", *(["host-linux-x64/QdstrmImporter"] if importer else [])]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
        path.chmod(0o755)
    return folder / names[0]


def option(name: str) -> str:
    return next(word.partition("=")[2] for word in sys.argv if word.startswith(f"{name}="))


def tries() -> int:
    """How often this installation was asked to record, this time included."""
    with Path(sys.argv[0]).with_name("tries").open("a+") as file:
        file.write("x")
        file.flush()
        return file.tell()


#: What nsys says of what went wrong, by what did.
FAULTS = {
    "full": "Failed to create 'run.qdstrm': No space left on device.",
    "breaks off": "Connection to Agent lost. This is most likely a bug. Internal reason: 'End of file'.\n"
    "Failed to connect to Agent: Connection reset by peer",
}


def record(how: str) -> int:
    if how == "never-starts":
        time.sleep(300)
    if how.startswith("no agent") and tries() <= int(how.rpartition(" ")[2]):
        print(NO_AGENT)
        return 1
    begin = next(place for place, word in enumerate(sys.argv) if word.startswith("--output=")) + 1
    if how == "agent lost, with traces":
        left = Path(os.environ["TMPDIR"], "nvidia/nsight_systems/quadd_session_1/injection_files/injection_1_0.dat")
        left.parent.mkdir(parents=True)
        left.touch()
    program = subprocess.Popen(sys.argv[begin:], start_new_session=True)
    if how == "killed":
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    code = program.wait()
    if how.startswith("agent lost"):
        print(NO_AGENT)
        return 1
    output = Path(option("--output").replace("%%", "%") + ".nsys-rep")
    if how.startswith("hangs"):
        raw = Path(os.environ["TMPDIR"], "nsys-report-1234.qdstrm")
        raw.write_bytes(b"raw")
        output.write_bytes(b"NVIDIA Tegra Profiler Report 2030, cut")
        print(f"Generating '{raw}'\n\r[1/1] [0%                          ] run.nsys-rep", end="", flush=True)
        time.sleep(300)
    elif how == "hangs before":
        time.sleep(300)
    elif how in ("whole", "empty", "other") or how.startswith("no agent"):
        output.write_bytes({"whole": REPORT, "empty": b"", "other": b"something else"}.get(how, REPORT))
    print(FAULTS.get(how, ""))
    print(f"Generated:\n    {output}" if how not in ("nothing", "breaks off") else "Generated:")
    return code


def import_raw(how: str) -> int:
    if how == "hangs":
        time.sleep(300)
    if how == "fails":
        print("Import Failed with unexpected exception")
        return 1
    Path(sys.argv[sys.argv.index("--output-file") + 1]).write_bytes(REPORT)
    return 0


def export(how: str) -> int:
    """`how`: whole, partial, or the path of an export, of which payloads are left out unless they are asked for."""
    if how.endswith(".sqlite"):
        if option("--type") != "sqlite":
            return 1
        shutil.copyfile(how, option("--output"))
        if "--include-blobs=true" not in sys.argv:
            with closing(sqlite3.connect(option("--output"))) as database, database:
                database.execute("UPDATE NVTX_EVENTS SET binaryData = NULL")
        return 0
    with closing(sqlite3.connect(option("--output"))) as database:
        database.execute(f"CREATE TABLE {'META_DATA_EXPORT' if how == 'whole' else 'StringIds'} (name, value)")
    return 0


def main() -> int:
    if Path(sys.argv[0]).name == "QdstrmImporter":
        return import_raw(os.environ.get("FAKE_IMPORTER", "whole"))
    if sys.argv[1] == "--version":
        print("NVIDIA Nsight Systems version 2030.1.1.1-0")
    elif "--help" in sys.argv:
        print("--output= --trace= --sample=")
    elif sys.argv[1] == "export":
        return export(os.environ.get("FAKE_EXPORT", "whole"))
    else:
        return record(os.environ.get("FAKE_NSYS", "whole"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
