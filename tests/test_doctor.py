"""The doctor says whether a capture works, by capturing; and in a sentence why it does not."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from dsprof.capture import doctor
from dsprof.capture.doctor import Check, examine, works
from dsprof.nsys import command
from nsys_stats import MIDDLE, OLD, PRIMARY, require
from trace_builder import TraceBuilder

CARD = doctor._Gpu(True, "580.159.04", ("NVIDIA H200 (143771 MiB)",))


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without nsys and without a GPU, whatever this one has."""
    monkeypatch.setattr(command, "_USUAL_PLACES", ())
    monkeypatch.delenv("DSPROF_NSYS", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(doctor, "_look_at_gpu", lambda: doctor._Gpu(False))


def by_name(checks: Sequence[Check]) -> dict[str, Check]:
    for check in checks:
        assert check.found, check
        assert check.remedy or check.state in ("ok", "absent"), check
    return {check.name: check for check in checks}


def pretend(folder: Path, *, profile: str = "", export: str = "", version: str = "2023.4.4.54") -> Path:
    """A program that answers as an nsys does; `profile` and `export` are shell, with $out for the output."""
    path = folder / "pretended-nsys"
    path.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] && {{ echo "NVIDIA Nsight Systems version {version}"; exit; }}\n'
        'for word in "$@"; do case $word in --output=*) out=${word#--output=};; esac; done\n'
        f"case $1 in profile) {profile or ':'};; export) {export or ':'};; esac\n"
    )
    path.chmod(0o755)
    return path


def capture(nsys: Path) -> Check:
    checks = examine(str(nsys))
    assert works(checks) == (by_name(checks)["capture"].state != "failed")
    return by_name(checks)["capture"]


# -- the real nsys ------------------------------------------------------------------------------------------


@pytest.mark.nsys
@pytest.mark.parametrize("which", [PRIMARY, OLD, MIDDLE])
def test_a_machine_that_can_capture(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nsys = require(which)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    checks = examine(str(nsys.path))
    found = by_name(checks)
    assert works(checks)
    assert found["nsys"] == Check("nsys", "ok", f"{nsys.version} ({nsys.path})")
    assert found["capture"] == Check("capture", "ok", "a toy program came back with 5 ranges")
    plain = found["plain nvtx ranges"]
    assert plain.found.startswith(("recorded: nvtx ", "not recorded: nvtx "))
    assert f"under nsys {nsys.version}" in plain.found
    assert found["CUDA tracing"] == Check("CUDA tracing", "absent", "no GPU: host times only")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nsys
def test_plain_ranges_of_a_new_nvtx_are_lost_under_an_old_nsys() -> None:
    nsys = require(PRIMARY)
    if nsys.year >= 2025 or tuple(map(int, doctor.installed("nvtx").split(".")[:3])) < (0, 2, 12):
        pytest.skip("this pair of nvtx and nsys records plain ranges")
    plain = by_name(examine(str(nsys.path)))["plain nvtx ranges"]
    assert plain.state == "warning"
    assert "nvtx<0.2.12" in plain.remedy


@pytest.mark.nsys
def test_an_nsys_without_its_importer(tmp_path: Path) -> None:
    real = require(PRIMARY).path.resolve()
    target = next((path for path in real.parents if path.name == "target-linux-x64"), None)
    if target is None:
        found = sorted(real.parent.rglob("target-linux-x64/nsys"))
        if not found:
            pytest.skip("this nsys has no folder of its own for the target")
        target = found[0].parent
    shutil.copytree(target, tmp_path / "target-linux-x64", symlinks=True)  # and no host folder beside it
    found = capture(tmp_path / "target-linux-x64" / "nsys")
    assert found.state == "failed"
    assert "importer" in found.found


# -- what is missing ----------------------------------------------------------------------------------------


def test_a_machine_without_nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(command, "_USUAL_PLACES", tuple(p for p in command._USUAL_PLACES if p.startswith("~")))
    monkeypatch.delenv("DSPROF_NSYS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    checks = examine()
    found = by_name(checks)
    assert not works(checks)
    assert (found["nsys"].state, found["capture"].state) == ("failed", "failed")
    assert "Install" in found["nsys"].remedy
    assert found["capture"].found == "not tried: no nsys"


def test_a_named_nsys_that_is_none(tmp_path: Path) -> None:
    checks = examine(str(tmp_path / "nsys"))
    assert not works(checks)
    assert "--nsys" in by_name(checks)["nsys"].found


@pytest.mark.parametrize("content", ["", "#!/none/such\n", "#!/bin/sh\nexit 1\n"])
def test_an_nsys_that_does_not_run(content: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken-nsys"
    broken.write_text(content)
    broken.chmod(0o755)
    checks = examine(str(broken))
    assert not works(checks)
    assert by_name(checks)["nsys"].state == "failed"


def test_a_program_that_lacks_nvtx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda package: "" if package == "nvtx" else honest(package))
    checks = examine(str(pretend(tmp_path)))
    assert not works(checks)
    assert by_name(checks)["nvtx"].remedy == "`pip install nvtx`"


def test_libraries_that_are_missing_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda package: "")
    found = by_name(doctor._libraries(doctor._Gpu(False)))
    assert [check.state for check in found.values()] == ["absent"] * 4
    assert all("pip install" in check.remedy for check in found.values())


# -- captures that fail -------------------------------------------------------------------------------------


def test_every_failure_of_a_capture_is_a_sentence(tmp_path: Path) -> None:
    cases = {
        "importer": 'touch "${out%.nsys-rep}.qdstrm"',
        "left no report": "echo something odd",
        "exit code 3: Error: it broke": 'echo "Error: it broke"; exit 3',
        "could not export": 'touch "$out"',
    }
    for said, profile in cases.items():
        found = capture(pretend(tmp_path, profile=profile))
        assert found.state == "failed", said
        assert said in found.found


def test_a_capture_without_ranges_is_none(tmp_path: Path) -> None:
    empty = TraceBuilder().range("prefill", 0, 9, domain="other").write(tmp_path / "empty.sqlite")
    found = capture(pretend(tmp_path, profile='touch "$out"', export=f'cp {empty} "$out"'))
    assert found.state == "failed"
    assert "recorded 0 of its ranges" in found.found
    nothing = TraceBuilder().write(tmp_path / "nothing.sqlite")
    found = capture(pretend(tmp_path, profile='touch "$out"', export=f'cp {nothing} "$out"'))
    assert "a report was recorded, but:" in found.found


def test_a_capture_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CANARY_LIMIT_S", 0.3)
    found = capture(pretend(tmp_path, profile="exec sleep 60"))
    assert "did not end" in found.found


def test_a_capture_that_hangs_once_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CANARY_LIMIT_S", 2.0)
    made = TraceBuilder().range("prefill", 0, 9, domain="dsprof").range("decode", 9, 19, domain="dsprof")
    whole, flag = made.write(tmp_path / "whole.sqlite"), tmp_path / "flag"
    script = f'if [ -e {flag} ]; then touch "$out"; else touch {flag}; exec sleep 60; fi'
    found = capture(pretend(tmp_path, profile=script, export=f'cp {whole} "$out"'))
    assert found == Check("capture", "ok", "a toy program came back with 2 ranges")


def test_a_capture_that_leaves_nothing_once_is_tried_again(tmp_path: Path) -> None:
    made = TraceBuilder().range("prefill", 0, 9, domain="dsprof").range("decode", 9, 19, domain="dsprof")
    whole, flag = made.write(tmp_path / "whole.sqlite"), tmp_path / "flag"
    script = f'if [ -e {flag} ]; then touch "$out"; else touch {flag}; echo Agent launcher failed.; exit 1; fi'
    found = capture(pretend(tmp_path, profile=script, export=f'cp {whole} "$out"'))
    assert found == Check("capture", "ok", "a toy program came back with 2 ranges")


def test_a_temporary_folder_that_is_full_or_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    checks = examine(str(pretend(tmp_path)))
    assert not works(checks)
    assert any(check.name == "disk space" and check.state == "failed" for check in checks)


# -- the GPU ------------------------------------------------------------------------------------------------


def test_a_gpu_whose_kernel_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_look_at_gpu", lambda: CARD)
    monkeypatch.setattr(doctor, "_SEES_CUDA", "print('cuda 1')")
    made = TraceBuilder().range("prefill", 0, 9, domain="dsprof").range("decode", 9, 19, domain="dsprof")
    whole = made.kernel("canary", at=(30, 40), call=(10, 20)).write(tmp_path / "whole.sqlite")
    checks = examine(str(pretend(tmp_path, profile='touch "$out"', export=f'cp {whole} "$out"')))
    found = by_name(checks)
    assert works(checks)
    assert found["CUDA tracing"].found == "1 kernel of 1 recorded, 1 API calls"
    assert found["GPU"].found == "NVIDIA H200 (143771 MiB), driver 580.159.04"
    assert found["torch"].found.endswith("sees 1 GPUs") or found["torch"].state == "absent"


def test_a_gpu_whose_kernel_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_look_at_gpu", lambda: CARD)
    monkeypatch.setattr(doctor, "_SEES_CUDA", "print(0)")
    made = TraceBuilder("2025.3.2").range("prefill", 0, 9, domain="dsprof").range("decode", 9, 19, domain="dsprof")
    made.api(call=(10, 20)).diagnostic("The driver is not supported", severity=2)
    whole = made.write(tmp_path / "whole.sqlite")
    checks = examine(str(pretend(tmp_path, profile='touch "$out"', export=f'cp {whole} "$out"')))
    cuda = by_name(checks)["CUDA tracing"]
    assert not works(checks)
    assert "no kernel was recorded by nsys 2023.4.4.54 on driver 580.159.04" in cuda.found
    assert "The driver is not supported" in cuda.found
    assert by_name(checks)["torch"].state in ("warning", "absent")


def test_a_gpu_that_programs_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'OSError: libcuda.so.1: cannot open shared object file'; exit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(doctor, "_look_at_gpu", lambda: CARD)
    cuda = doctor._cuda_check(pretend(tmp_path, profile=f"{script}; exit 1"), "2023.4.4.54", CARD)
    assert cuda.state == "failed"
    assert "libcuda.so.1" in cuda.found
    assert "nvidia-smi" in cuda.remedy


def test_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    smi = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def says(script: str) -> doctor._Gpu:
        smi.write_text(f"#!/bin/sh\n{script}\n")
        smi.chmod(0o755)
        return doctor._look_at_gpu()

    assert says("echo '580.159.04, NVIDIA H200, 143771 MiB'") == CARD
    failed = says("echo 'NVIDIA-SMI has failed because it could not talk to the driver'; exit 9")
    assert failed.cards == ()
    assert "has failed" in failed.trouble
    monkeypatch.setattr(doctor, "_SMI_LIMIT_S", 0.2)
    assert "no answer" in says("exec sleep 20").trouble
    line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Jan  1 2026\nGCC version: 13.2\n"
    (tmp_path / "version").write_text(line)
    assert doctor._driver_file(tmp_path / "version") == "580.159.04"
    assert doctor._driver_file(tmp_path / "none") == ""


def test_states_of_the_gpu() -> None:
    assert doctor._gpu(doctor._Gpu(False)) == Check("GPU", "absent", "no GPU: host times only")
    assert doctor._gpu(doctor._Gpu(False, "580.1")).state == "warning"
    assert doctor._gpu(doctor._Gpu(True, "580.1", trouble="nvidia-smi is not there")).state == "warning"


# -- the machine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "state"), [("-1", "ok"), ("2", "ok"), ("4", "warning"), ("odd", "absent")])
def test_perf_event_paranoid(level: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "level").write_text(level + "\n")
    monkeypatch.setattr(doctor, "_PARANOID", tmp_path / "level")
    assert doctor._paranoid().state == state


@pytest.mark.parametrize(("free", "state"), [(10**8, "failed"), (10**9, "warning"), (10**11, "ok")])
def test_disk_space(free: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    assert doctor._room(tmp_path).state == state
    assert doctor._room(tmp_path / "gone").state == "failed"


def test_only_a_failed_check_says_no() -> None:
    assert works([Check("a", "ok", "x"), Check("b", "warning", "x", "y"), Check("c", "absent", "x")])
    assert not works([Check("a", "ok", "x"), Check("b", "failed", "x", "y")])


def test_the_doctor_loads_nothing_heavy() -> None:
    heavy = ("torch", "pandas", "transformers", "nvtx")
    code = f"import sys, dsprof.capture.doctor; print([m for m in {heavy} if m in sys.modules])"
    done = doctor._ask([sys.executable, "-c", code], 60)
    assert done == (0, "[]\n"), os.fspath(done[1])
