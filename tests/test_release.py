"""What a release is: wheel and sdist are built from a copy of the tree, looked into, installed, and run elsewhere."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

pytest.importorskip("build", reason="it is in the dev group")
pytest.importorskip("hatchling", reason="it is in the dev group")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = PROJECT["version"]
SAMPLE = "traces/samples/h200-stages.sqlite.xz"
#: What lies in the copy as it may in a checkout that was worked in, and must be in no release.
LITTER = (
    "traces/20260101-000000-page/run.nsys-rep", "traces/20260101-000000-page/session.json", "traces/page.png",
    "traces/samples/h200-stages.dsprof/kern_sum.parquet", "traces/samples/run.nsys-rep", "traces/samples/run.sqlite",
    "src/dsprof/__pycache__/errors.cpython-311.pyc", "tests/__pycache__/readme.cpython-311.pyc",
    "docs/.ipynb_checkpoints/roofs.md", ".venv/bin/python", ".hypothesis/examples", "dist/dsprof-0.0.0.tar.gz",
    ".mypy_cache/tag", "notes.txt", "run.sqlite",
)  # fmt: skip
#: Tests of this file share one build.
pytestmark = pytest.mark.xdist_group("release")


def clean_copy(target: Path) -> Path:
    """The tree without what git would ignore, told without git: the sources of a release have none."""
    traces = ROOT / "traces"

    def left_out(folder: str, names: list[str]) -> set[str]:
        out = {name for name in names if name in (".git", "__pycache__", "build", "dist") or name.startswith(".venv")
               or name.endswith((".dsprof", "_cache")) or name in (".hypothesis", ".ipynb_checkpoints")}  # fmt: skip
        kept = ("README.md", "record", "samples")
        return out | ({name for name in names if name not in kept} if Path(folder) == traces else set())

    return Path(shutil.copytree(ROOT, target, ignore=left_out, symlinks=True))


def run(command: list[str | Path], folder: Path) -> str:
    """What a command prints in a folder, with nothing of this process's paths."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, littered."""
    copy = clean_copy(tmp_path_factory.mktemp("release") / "tree")
    for name in LITTER:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("secret")
    return copy


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that was built of it."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, tree], folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"dsprof-{VERSION}-py3-none-any.whl", f"dsprof-{VERSION}.tar.gz"
    ]  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as file:
        yield file


@pytest.fixture(scope="module")
def sources(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unpacked sdist."""
    folder = tmp_path_factory.mktemp("sources")
    with tarfile.open(next(built.glob("*.tar.gz"))) as file:
        file.extractall(folder, filter="data")
    return folder / f"dsprof-{VERSION}"


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_string(wheel.read(f"dsprof-{VERSION}.dist-info/METADATA").decode())


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# -- what is in them -----------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    package = {
        f"dsprof/{name}" for name in files_in(ROOT / "src/dsprof") if name.endswith((".py", "py.typed", ".css", ".js"))
    }
    about = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert set(wheel.namelist()) == package | {f"dsprof-{VERSION}.dist-info/{name}" for name in about}
    assert {"dsprof/py.typed", "dsprof/page/style.css", "dsprof/page/script.js"} <= package


def test_the_sources_hold_what_both_commands_of_the_readme_need(sources):
    found = files_in(sources)
    assert not found & set(LITTER)
    needed = {"Makefile", "pyproject.toml", "hatch_build.py", "LICENSE", "CHANGELOG.md", ".ci/demo", ".ci/install-nsys",
              ".ci/install-browser",
              SAMPLE, SAMPLE.replace(".sqlite.xz", ".model.json"), "tests/conftest.py", "PKG-INFO"}  # fmt: skip
    assert needed <= found
    assert os.access(sources / ".ci/demo", os.X_OK)
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", (sources / "README.md").read_text(encoding="utf-8"))
    assert links and [link for link in links if not (sources / link).exists()] == []
    for folder in ("src", "tests", "docs", "notebooks", "benchmarks", ".ci"):
        litter = re.compile(r"__pycache__/|\.ipynb_checkpoints/|\.dsprof/")
        kept = {name for name in files_in(ROOT / folder) if not litter.search(name)}
        assert {name.removeprefix(f"{folder}/") for name in found if name.startswith(f"{folder}/")} == kept


def test_no_release_holds_a_report_or_what_a_tool_left(sources, wheel):
    for name in files_in(sources) | set(wheel.namelist()):
        path = PurePosixPath(name)
        assert path.suffix not in (".nsys-rep", ".qdrep", ".qdstrm", ".pyc", ".sqlite", ".parquet"), name
        assert not {"__pycache__", ".git", ".venv"} & set(path.parts), name


# -- what they say of themselves -----------------------------------------------------------------------------


def test_what_the_metadata_say(metadata):
    assert (metadata["Name"], metadata["Version"], metadata["Summary"]) == ("dsprof", VERSION, PROJECT["description"])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    plain = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(plain) == sorted(PROJECT["dependencies"])


def test_the_changelog_begins_with_the_version():
    heading = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heading and re.fullmatch(rf"{re.escape(VERSION)} \(\d{{4}}-\d\d-\d\d\)", heading[1])


def test_the_long_description_reads_where_its_folder_is_not(metadata):
    """As an index shows it: it renders, and no link or picture leads into a folder that is not there."""
    markdown = pytest.importorskip("readme_renderer.markdown")
    text = metadata.get_payload()
    shown = markdown.render(text)
    assert metadata["Description-Content-Type"] == "text/markdown" and shown
    words = re.sub(r"<[^>]+>", "", shown)
    assert "dsprof analyze traces/samples" in words and "<!--" not in shown
    assert "prefill is launch-bound" in words, "the first screen is there as text"
    assert not re.search("<(picture|source|img)", text), "no picture is there that cannot be shown"
    leads = re.findall(r'(?:href|src)="([^"]*)"', shown)
    assert [link for link in leads if not re.match(r"https?:|#", link)] == []
    assert "](" not in re.sub(r"\]\(https?:", "", text)


def test_twine_finds_nothing(built):
    pytest.importorskip("twine", reason="`make dist` installs it")
    run([sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir())], built)


# -- that they run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the release in it; the packages that it needs are those of this one."""
    pytest.importorskip("pip")
    home = tmp_path_factory.mktemp(f"from-{request.param}")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], home).strip())
    borrowed = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (own / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    release = next(built.glob("*.whl" if request.param == "wheel" else "*.tar.gz"))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, "--force-reinstall", "--ignore-installed", "--no-build-isolation", release], home)
    assert (own / "dsprof" / "py.typed").is_file()
    return home


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside of the tree, with the sample in it."""
    shutil.copy(ROOT / SAMPLE, tmp_path)
    return tmp_path


@pytest.mark.parametrize("program", [["dsprof"], ["python", "-m", "dsprof"]], ids=" ".join)
def test_an_installed_release_runs_from_elsewhere(program, installed, elsewhere):
    dsprof = [installed / "bin" / program[0], *program[1:]]
    where = run([installed / "bin" / "python", "-c", "import dsprof; print(dsprof.__file__)"], elsewhere)
    assert Path(where.strip()).is_relative_to(installed)
    assert run([*dsprof, "--version"], elsewhere) == f"dsprof {VERSION}\n"
    assert "stage_kern_sum: a row is" in run([*dsprof, "tables"], elsewhere)
    shown = run([*dsprof, "analyze", Path(SAMPLE).name], elsewhere)
    assert "decode is launch-bound" in shown and "83 814 kernels" in shown
    assert (elsewhere / "h200-stages.dsprof" / "stage_sum.parquet").is_file()
    assert run([*dsprof, "report", Path(SAMPLE).name], elsewhere) == "Report: h200-stages.html\n"
    assert "<style>:root {" in (elsewhere / "h200-stages.html").read_text(encoding="utf-8")


def test_a_release_brings_one_program(installed):
    """One console script."""
    names = {path.name for path in (installed / "bin").iterdir()}
    assert {name for name in names if not name.lower().startswith(("python", "activate"))} == {"dsprof"}
