"""`examine`: would a capture work on this machine? Tried, not guessed: a small capture has to come back whole.

The exit codes of nsys say nothing, so the canary (a toy program under ``nsys profile``, its report exported and
read) must come back with ranges; on a machine with a GPU a second one must come back with a kernel. Nothing
heavy is loaded: versions come from the packages' metadata, torch is asked in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dsprof.errors import DsprofError, ExportFailed
from dsprof.ground.versions import installed
from dsprof.nsys.command import Outcome, export, find_nsys, nsys_version, run_nsys
from dsprof.nsys.inputs import Input
from dsprof.nsys.reader import read
from dsprof.records import frozen
from dsprof.trace import Trace
from dsprof.words import DECODE, DOMAIN, PREFILL

State = Literal["ok", "warning", "failed", "absent"]

#: Seconds after which a canary is given up; it takes two to four.
CANARY_LIMIT_S = 60.0
#: Seconds for nvidia-smi, and for torch to load and look for CUDA.
_SMI_LIMIT_S, _TORCH_LIMIT_S = 20.0, 90.0
#: Bytes free below which a capture cannot work, and below which a long one may not.
_DISK_NEEDED, _DISK_WISHED = 200 * 10**6, 5 * 10**9
#: The domain of the range that the canary opens with the nvtx package as everybody would.
_PLAIN = "dsprof-plain"
#: What helps where a program's own ranges are lost to the pair of its nvtx and nsys.
PLAIN_REMEDY = "For programs that call nvtx themselves: `pip install 'nvtx<0.2.12'`, or nsys 2025 or newer."


@frozen
class Check:
    """One line of the doctor: what was looked at, how it is, what was found, what to do (empty for nothing).

    ``warning``: captures work, but with less in them. ``absent``: not there, and not needed for a capture.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def works(checks: Sequence[Check]) -> bool:
    """Would a capture work? Only a failed check says no."""
    return all(check.state != "failed" for check in checks)


def examine(nsys: str | None = None) -> list[Check]:
    """Look at everything that a capture needs; takes some seconds. Raises nothing for what is wrong here.

    `nsys` names the nsys to use, as `find_nsys` takes it.
    """
    machine = _look_at_gpu()
    checks = [*_nsys_checks(nsys, machine), _gpu(machine)]
    return [*checks, *_libraries(machine), _paranoid(), *_disk()]


def pair(nvtx: str, nsys: str) -> str:
    """The two versions that decide together whether a program's ranges are recorded."""
    return f"nvtx {nvtx} under nsys {nsys}"


# -- nsys and the canaries ----------------------------------------------------------------------------------


def _nsys_checks(named: str | None, machine: _Gpu) -> list[Check]:
    try:
        nsys = find_nsys(named)
        version = nsys_version(nsys)
    except DsprofError as error:
        return [Check("nsys", "failed", error.message, error.hint), *_not_tried(machine, "no nsys")]
    except OSError as error:
        return [_no_temporary(error, "nsys"), *_not_tried(machine, "nsys does not run")]
    if not version:
        remedy = "Run it by hand with --version, and name a working one with --nsys."
        return [Check("nsys", "failed", f"{nsys} prints no version", remedy), *_not_tried(machine, "nsys does not run")]
    return [
        Check("nsys", "ok", f"{version} ({nsys})"),
        *_range_checks(nsys, version),
        _cuda_check(nsys, version, machine),
    ]


def _not_tried(machine: _Gpu, why: str) -> list[Check]:
    package = installed("nvtx")
    return [
        Check("capture", "failed", f"not tried: {why}", "See the line above."),
        _nvtx(package) if package else _no_nvtx(),
        _no_gpu() if not machine.there else Check("CUDA tracing", "absent", f"not tried: {why}", "See above."),
    ]


def _range_checks(nsys: Path, version: str) -> list[Check]:
    """The first canary: the toy's ranges, and one that the nvtx package was asked for in the plain way."""
    package = installed("nvtx")
    if not package:
        return [Check("capture", "failed", "not tried: the toy program needs nvtx", "See below."), _no_nvtx()]
    got = _canary(nsys, "nvtx", _TOY)
    if isinstance(got, Check):
        return [got, _nvtx(package)]
    return [_ranges(got, version), _nvtx(package), _plain_ranges(got, package, version)]


_TOY = f"""
import nvtx
try:
    with nvtx.annotate("canary", domain={_PLAIN!r}):
        pass
except Exception:
    pass
from dsprof.workloads.toy import main
main(["1", "3"])
"""


def _ranges(trace: Trace, version: str) -> Check:
    ours = [trace.names[code] for code, domain in _names_and_domains(trace) if trace.names[domain] == DOMAIN]
    if {PREFILL, DECODE} <= set(ours):
        return Check("capture", "ok", f"a toy program came back with {len(ours)} ranges")
    return Check(
        "capture",
        "failed",
        f"a toy program ran, but nsys {version} recorded {len(ours)} of its ranges",
        "Update nsys, or install another nvtx: `pip install 'nvtx<0.2.12'` suits old versions of nsys.",
    )


def _names_and_domains(trace: Trace) -> list[tuple[int, int]]:
    return list(zip(trace.ranges.name.tolist(), trace.ranges.domain.tolist(), strict=True))


def _plain_ranges(trace: Trace, package: str, version: str) -> Check:
    """Do ranges arrive that a program opens without dsprof's way around? Here the pair of versions decides."""
    both = pair(package, version)
    if any(trace.names[domain] == _PLAIN for _, domain in _names_and_domains(trace)):
        return Check("plain nvtx ranges", "ok", f"recorded: {both}")
    return Check(
        "plain nvtx ranges",
        "warning",
        f"not recorded: {both}; dsprof's own ranges are",
        PLAIN_REMEDY,
    )


def _cuda_check(nsys: Path, version: str, machine: _Gpu) -> Check:
    """The second canary, where there is a GPU: one kernel, launched through the driver alone."""
    if not machine.there:
        return _no_gpu()
    got = _canary(nsys, "cuda,nvtx", _KERNEL)
    if isinstance(got, Check):
        remedy = got.remedy if "exit code" not in got.found else "See whether nvidia-smi and other CUDA programs run."
        return Check("CUDA tracing", "failed", got.found, remedy)
    kernels, calls = len(got.kernels), len(got.calls)
    if kernels:
        return Check("CUDA tracing", "ok", f"{kernels} kernel of 1 recorded, {calls} API calls")
    said = f"; nsys says: {got.report.diagnostics[0]}" if got.report.diagnostics else ""
    return Check(
        "CUDA tracing",
        "failed",
        f"{calls} API calls but no kernel was recorded by nsys {version} on driver {machine.driver or 'unknown'}{said}",
        "An nsys older than the driver records little: install one that is as new as the driver.",
    )


def _no_gpu() -> Check:
    return Check("CUDA tracing", "absent", "no GPU: host times only")


#: Launches one kernel through libcuda, which every driver brings; PTX for old cards where new is refused.
_KERNEL = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        sys.exit(f"{name} ended with CUDA error {code}")
device, context, module, function = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
for target in ("sm_75", "sm_50"):
    ptx = f".version 6.3\\n.target {target}\\n.address_size 64\\n.visible .entry canary() {{ ret; }}\\n".encode()
    if not cuda.cuModuleLoadData(ctypes.byref(module), ptx):
        break
call("cuModuleGetFunction", ctypes.byref(function), module, b"canary")
call("cuLaunchKernel", function, *([ctypes.c_uint(1)] * 6), ctypes.c_uint(0), None, None, None)
call("cuCtxSynchronize")
"""


def _canary(nsys: Path, trace: str, program: str) -> Trace | Check:
    """Record `program` (Python), export and read the report; or the sentence that says what went wrong."""
    try:
        with tempfile.TemporaryDirectory(prefix="dsprof-doctor-") as folder:
            return _record(nsys, trace, program, Path(folder))
    except OSError as error:
        return _no_temporary(error, "capture")


def _no_temporary(error: OSError, name: str) -> Check:
    return Check(
        name,
        "failed",
        f"the temporary folder {tempfile.gettempdir()} cannot be used ({error.strerror})",
        "Free space there, or set TMPDIR to a folder that you may write to.",
    )


def _record(nsys: Path, trace: str, program: str, folder: Path) -> Trace | Check:
    report, exported = folder / "canary.nsys-rep", folder / "canary.sqlite"
    flags = [f"--trace={trace}", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true"]
    arguments = ["profile", *flags, f"--output={report}", sys.executable, "-c", program]
    outcome = _patient(nsys, arguments, report)
    if not report.is_file() or outcome.code != 0:
        return _no_report(outcome, folder)
    try:
        export(Input(report), exported, nsys)
        return read(exported)
    except ExportFailed as error:
        return Check("capture", "failed", error.message, "The installation of nsys is not whole: install it again.")
    except DsprofError as error:
        return Check("capture", "failed", f"a report was recorded, but: {error.message}", error.hint)


def _patient(nsys: Path, arguments: Sequence[str], report: Path) -> Outcome:
    """Run nsys, and once more where it left no report: a canary may be lost by chance, and may run twice.

    Now and then an import hangs or fails, and on a busy machine the agent cannot be reached (2022.4 to 2024.2).
    """
    outcome = run_nsys(nsys, arguments, CANARY_LIMIT_S)
    return outcome if report.is_file() and outcome.code != 124 else run_nsys(nsys, arguments, CANARY_LIMIT_S)


def _no_report(outcome: Outcome, folder: Path) -> Check:
    """The sentence for a capture that left no report, or whose program failed."""
    if outcome.code == 124:
        return Check(
            "capture",
            "failed",
            f"nsys did not end within {CANARY_LIMIT_S:.0f} s, twice",
            "See whether another capture is running; end left-over nsys processes, or restart the machine.",
        )
    if any(folder.glob("*.qdstrm")):
        return Check(
            "capture",
            "failed",
            "nsys recorded, but could not import the recording: its importer is missing or lacks libraries",
            "Install the whole Nsight Systems package, host and target part; its QdstrmImporter says what it lacks.",
        )
    said = _telling_line(outcome.said)
    if outcome.code != 0:
        remedy = "Run `python -m dsprof.workloads.toy` by hand, then the same under `nsys profile --trace=nvtx`."
        return Check("capture", "failed", f"nsys profile ended with exit code {outcome.code}: {said}", remedy)
    return Check("capture", "failed", f"nsys profile left no report: {said}", "Install Nsight Systems again.")


def _telling_line(said: str) -> str:
    """The line that names an error, else the last one."""
    lines = [line.strip() for line in said.replace("\r", "\n").split("\n") if line.strip()]
    telling = [line for line in lines if "rror" in line or "ailed" in line or "cannot" in line]
    return (telling or lines or ["it said nothing"])[-1][:300]


# -- the GPU ------------------------------------------------------------------------------------------------


@frozen
class _Gpu:
    """What the machine has: device nodes, the driver's version, a line for each card that nvidia-smi lists."""

    there: bool
    driver: str = ""
    cards: tuple[str, ...] = ()
    trouble: str = ""


def _look_at_gpu() -> _Gpu:
    nodes = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
    driver = _driver_file(Path("/proc/driver/nvidia/version"))
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return _Gpu(nodes, driver, trouble="nvidia-smi is not there" if nodes else "")
    query = [smi, "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader"]
    code, said = _ask(query, _SMI_LIMIT_S)
    rows = [line.split(", ") for line in said.splitlines() if line.count(", ") == 2]
    if code or not rows:
        return _Gpu(nodes, driver, trouble=f"nvidia-smi: {_telling_line(said)}")
    return _Gpu(True, rows[0][0], tuple(f"{name} ({memory})" for _, name, memory in rows))


def _driver_file(path: Path) -> str:
    try:
        words = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].split()
    except OSError:
        return ""
    return next((word for word in words if word[0].isdigit() and "." in word), "")


def _gpu(machine: _Gpu) -> Check:
    if machine.there and not machine.trouble:
        return Check("GPU", "ok", f"{', '.join(machine.cards) or 'found'}, driver {machine.driver or 'unknown'}")
    if machine.there or machine.driver:
        return Check(
            "GPU",
            "warning",
            machine.trouble or f"driver {machine.driver}, but no device is visible to this process",
            "Run nvidia-smi by hand; in a container, start it with --gpus all.",
        )
    return Check("GPU", "absent", "no GPU: host times only")


# -- libraries ----------------------------------------------------------------------------------------------


def _nvtx(package: str) -> Check:
    return Check("nvtx", "ok", package)


def _no_nvtx() -> Check:
    return Check("nvtx", "failed", "not installed: no range can be recorded", "`pip install nvtx`")


def _libraries(machine: _Gpu) -> list[Check]:
    workload = "`pip install 'dsprof[workload]'`, for models; captures of other programs do not need it."
    return [
        _torch(installed("torch"), machine, workload),
        _optional("transformers", workload),
        _optional("flash-attn", "`pip install 'dsprof[flash-attn]'`, on CUDA alone; models run without it."),
        _optional("numba", "`pip install 'dsprof[fast]'`, for reports of millions of kernels; others need no more."),
    ]


def _optional(package: str, remedy: str) -> Check:
    version = installed(package)
    return Check(package, "ok", version) if version else Check(package, "absent", "not installed", remedy)


def _torch(version: str, machine: _Gpu, remedy: str) -> Check:
    if not version:
        return Check("torch", "absent", "not installed", remedy)
    if not machine.there:
        return Check("torch", "ok", f"{version}, on the CPU")
    code, said = _ask([sys.executable, "-c", _SEES_CUDA], _TORCH_LIMIT_S)
    words = said.strip().splitlines()[-1:] or [""]
    if code == 0 and words[0].startswith("cuda "):
        return Check("torch", "ok", f"{version}, sees {words[0].removeprefix('cuda ')} GPUs")
    return Check(
        "torch",
        "warning",
        f"{version} does not see the GPU ({_telling_line(said) if code else 'no CUDA'})",
        "Install a CUDA build of torch that fits the driver: https://pytorch.org/get-started/locally",
    )


_SEES_CUDA = "import torch; n = torch.cuda.device_count() if torch.cuda.is_available() else 0; print(n and f'cuda {n}')"


def _ask(command: Sequence[str], limit_s: float) -> tuple[int, str]:
    """Exit code and output of a program; 124 after `limit_s` seconds, 127 where it cannot be run."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer after {limit_s:.0f} s"
    except OSError as error:
        return 127, f"cannot be run ({error.strerror})"
    return done.returncode, done.stdout.decode("utf-8", "replace")


# -- the machine --------------------------------------------------------------------------------------------

_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")


def _paranoid() -> Check:
    try:
        level = int(_PARANOID.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return Check("perf_event_paranoid", "absent", "the kernel does not say; no CPU sampling")
    if level <= 2:
        return Check("perf_event_paranoid", "ok", str(level))
    return Check(
        "perf_event_paranoid",
        "warning",
        f"{level}: no CPU sampling; ranges and kernels are not affected",
        "`sudo sysctl kernel.perf_event_paranoid=2`, if you want samples",
    )


def _disk() -> list[Check]:
    """Room where nsys writes while it records, and where dsprof puts the report."""
    places = dict.fromkeys((Path(tempfile.gettempdir()), Path.cwd()))
    return [_room(place) for place in places]


def _room(place: Path) -> Check:
    try:
        free, writable = shutil.disk_usage(place).free, os.access(place, os.W_OK)
    except OSError as error:
        return Check("disk space", "failed", f"{place}: {error.strerror}", "Set TMPDIR, or work in another folder.")
    found = f"{free / 1e9:.1f} GB free in {place}"
    if not writable:
        return Check("disk space", "failed", f"{place} may not be written to", "Set TMPDIR, or work in another folder.")
    if free < _DISK_NEEDED:
        return Check("disk space", "failed", found, "A capture needs 0.2 GB, a long one some: free space there.")
    if free < _DISK_WISHED:
        return Check("disk space", "warning", found, "Enough for a short capture; a long one writes gigabytes.")
    return Check("disk space", "ok", found)
