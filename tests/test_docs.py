"""README and docs say what the program does today: generated parts, links, commands, names, code."""

import glob
import json
import lzma
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import readme
from dsprof import findings
from dsprof.analysis.gather import REPORT_COLUMNS
from dsprof.analysis.rules_file import read_rules_file
from dsprof.cli import _split, app
from dsprof.compare.tables import TABLES as COMPARISON
from dsprof.errors import DsprofError
from dsprof.show.summary import Summary
from dsprof.tables import all_tables

ROOT = Path(__file__).resolve().parent.parent
PAGES = {str(page.relative_to(ROOT)): page for page in readme.pages()}
#: Every page whose links must hold, by its name from the root.
LINKED = {
    str(page.relative_to(ROOT)): page
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "traces/*.md", "notebooks/*.ipynb")
    for page in sorted(ROOT.glob(pattern))
}
#: Pages that say how to do something today, and not how it is made, or was.
GUIDES = {name: page for name, page in LINKED.items() if name not in ("ARCHITECTURE.md", "CHANGELOG.md")}
#: What is only read as a command line: it needs nsys, a model of gigabytes, or torch, or serves until it is stopped.
ONLY_READ = ("capture", "doctor", "workloads tiny", "workloads config", "timeline run.nsys-rep --open")
#: Options that pages name and that are other programs': of nsys, of engines, of `make fuzz`, of benchmarks.
OF_OTHERS = {"--weights", "--us", "--from-request", "--plant", "--parallel", "--nproc-per-node",
             "--wait", "--include-blobs", "--sample", "--cpuctxsw", "--long", "--only", "--markdown", "--report",
             "--functions", "--root", "--json", "--check", "--first-run", "--nsys-runs", "--against", "--folder",
             "--processes", "--kernels", "--size", "--requests", "--tokens", "--no-deps", "--record", "--uds",
             "--profile", "--profile-activities", "--profiler-config", "--trace-fork-before-exec", "--turns",
             "--reports", "--workers", "--scheduler-file", "--time", "--times", "--enable-layerwise-nvtx-tracing",
             "--enable-layerwise-nvtx-marker"}  # fmt: skip
#: Names in the manner of tables and columns that are Nsight's.
OF_NSIGHT = {"nvtx_kern_sum", "nvtx_gpu_proj_sum", "nvtx_gpu_proj_trace", "cuda_gpu_kern_sum", "nvtx_pushpop_trace"}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language in a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """What the consoles in a page call, as words."""
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.startswith("$ ")]


def called(program: str) -> list[str]:
    """The calls of a program in all guides, each once."""
    found = {shlex.join(words[1:]) for page in GUIDES.values() for words in commands(page) if words[0] == program}
    return sorted(found)


def prose(page: Path) -> str:
    """The text of a page, or of a notebook's Markdown, without what stands in fences."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def words_of_code(page: Path) -> list[str]:
    """What stands between backticks within the sentences of a page."""
    return [" ".join(word.split()) for word in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def inline_calls() -> list[str]:
    """What guides say of dsprof within a sentence, where it has arguments."""
    words = {word for page in GUIDES.values() for word in words_of_code(page)}
    return sorted(word.removeprefix("dsprof ") for word in words if word.startswith("dsprof "))


def command_of(call: str) -> tuple[Any, list[str]]:
    """The command that a call names, below its groups, and the words after it but for those behind ``--``."""
    command, words = get_command(app), _split(shlex.split(call))[0]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    return command, words


def options_of(command: Any) -> set[str]:
    """The options of a command, or of all below it."""
    if hasattr(command, "commands"):
        return {name for one in command.commands.values() for name in options_of(one)} | {"--help", "--version"}
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}


def makes() -> set[str]:
    """What can be made."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of; a report is known by its content, whatever its suffix."""
    sample = ROOT / "traces/samples/h200-graphs-node.sqlite.xz"
    for name in ("run.sqlite", "run.nsys-rep"):
        (tmp_path / name).write_bytes(lzma.decompress(sample.read_bytes()))
    samples = tmp_path / "traces/samples"
    samples.mkdir(parents=True)
    for name in ("before-1", "before-2", "after-1", "after-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.sqlite").write_bytes((tmp_path / "run.sqlite").read_bytes())
    others = [f"h100x2-tp-rank{rank}.sqlite.xz" for rank in range(2)]
    others += [f"h100-llama-1-{kind}.sqlite.xz" for kind in ("eager", "pageable-copy")]
    for name in ("h200-stages.sqlite.xz", "h200-stages.model.json", *others):
        (samples / name).symlink_to(ROOT / "traces/samples" / name)
    shutil.copy(ROOT / "traces/samples/h200-stages.model.json", tmp_path / "config.json")
    (tmp_path / "mine.toml").write_text('[[family]]\nname = "attention"\npattern = "my_attn"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- generated parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_generated_parts_are_current(name):
    text = PAGES[name].read_text(encoding="utf-8")
    assert readme.filled(text) == text, "run `make readme`"


def test_each_generated_part_stands_in_one_page():
    found = [name for page in PAGES.values() for name in readme.parts_in(page.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(readme.PARTS)


@pytest.mark.parametrize(
    "text",
    ["<!-- output -->\n", "<!-- /output -->\n", "<!-- output -->\n<!-- /json -->\n", "<!-- x -->\n<!-- /x -->\n"],
)
def test_a_wrong_mark_is_an_error(text):
    with pytest.raises(ValueError, match=r"alone|nothing makes"):
        readme.parts_in(text)


def test_the_list_of_commands_holds_every_option():
    text = readme.options()
    told = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", "\n".join(re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE))))
    assert told | {"--help", "-h", "--version"} >= options_of(get_command(app))
    assert told <= options_of(get_command(app))


# -- links ---------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        slug = base = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}-{number}"
        found.add(slug)
    return found


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead to."""
    return re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`\n]*`", "`", prose(page)))


def broken(page: Path, link: str) -> str:
    """What is wrong with a link; nothing for a good one, or one that leads elsewhere."""
    target, _, anchor = link.partition("#")
    if re.match(r"[a-z]+:", target):
        return ""
    path = (page.parent / unquote(target)).resolve() if target else page
    if not path.exists() or not path.is_relative_to(ROOT):
        return f"{link}: there is no such file"
    if anchor and (path.suffix != ".md" or anchor not in anchors(path)):
        return f"{link}: there is no such heading"
    return ""


@pytest.mark.parametrize("name", LINKED)
def test_links_lead_somewhere(name):
    assert [wrong for link in links(LINKED[name]) if (wrong := broken(LINKED[name], link))] == []


def test_a_broken_link_is_seen():
    page = ROOT / "docs" / "made.md"
    assert broken(page, "no-such-page.md") and broken(page, "../README.md#no-such-heading")
    assert broken(page, "../../../etc/hosts") and not broken(page, "../README.md#install")


def test_readme_links_every_page_of_docs():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(readme.README)}
    assert [name for name, page in PAGES.items() if page.parent == readme.DOCS and page not in linked] == []


def test_the_readme_is_a_page():
    assert len(readme.README.read_text(encoding="utf-8").splitlines()) <= 160


# -- commands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", called("dsprof"))
def test_commands_are_read(call):
    command, words = command_of(call)
    command.make_context(command.name, words)  # a wrong option or value is a usage error


def test_a_wrong_command_is_seen():
    with pytest.raises(Exception, match="--nosuch"):
        test_commands_are_read("analyze run.nsys-rep --nosuch")


@pytest.mark.parametrize("call", [call for call in called("dsprof") if not call.startswith(ONLY_READ)])
def test_commands_run(call, desk):
    if call.startswith("workloads"):
        pytest.importorskip("PIL", reason="it is in the extra `workload`")
    if call.startswith(("query", "mcp")):
        pytest.importorskip("duckdb" if call.startswith("query") else "mcp.server.mcpserver", reason="an extra has it")
    words = [path for word in shlex.split(call) for path in (sorted(glob.glob(word)) or [word])]  # noqa: PTH207  as a shell does
    arguments, behind = _split(words)
    result = CliRunner().invoke(app, arguments, obj=behind)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("call", inline_calls())
def test_commands_in_sentences_name_what_there_is(call):
    command, words = command_of(call)
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options_of(command)


def test_other_commands_name_what_there_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for words in (words for page in GUIDES.values() for words in commands(page) if words[0] != "dsprof"):
        if words[0] == "make":
            assert words[1] in makes()
        elif words[0] == "pip":
            extra = re.fullmatch(r"\.(?:\[([a-z-]+)\])?", words[2])
            assert words[1] == "install" and extra and (extra[1] or "fast") in project["optional-dependencies"]
        else:
            assert words[:2] == ["nsys", "profile"], "a command that no test knows"


def test_make_targets_in_sentences_are_there():
    named = {name for page in LINKED.values() for name in re.findall(r"`make\s+([a-z]+)", prose(page))}
    assert named and named <= makes()


def test_readme_has_the_two_commands():
    assert {"make demo", "make test"} <= {" ".join(words) for words in commands(readme.README)}


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_docs_show_each_command(command):
    assert any(call.split()[0] == command for call in called("dsprof"))


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_each_help_text_carries_an_example(command):
    epilog = get_command(app).commands[command].epilog
    assert f"Example: dsprof {command}" in epilog
    for call in epilog.removeprefix("Example: ").split("   or: "):
        test_commands_are_read(call.partition(" > ")[0].removeprefix("dsprof "))


# -- names ---------------------------------------------------------------------------------------------------


def fields(part: Any) -> set[str]:
    """The fields of a document's class, and of those inside."""
    attrs.resolve_types(part)
    found: set[str] = set()
    for field in attrs.fields(part):
        found.add(field.name)
        inner = [field.type, *getattr(field.type, "__args__", ())]
        found |= {name for one in inner if isinstance(one, type) and attrs.has(one) for name in fields(one)}
    return found


def known_names() -> set[str]:
    """Tables, columns, fields of the summary, causes and reports of Nsight."""
    tables = all_tables()
    columns = {column.name for table in [*tables.values(), *COMPARISON.values()] for column in table.columns}
    columns |= {column.name for column in REPORT_COLUMNS}
    return {*tables, *columns, *fields(Summary), *readme.MEANINGS, *OF_NSIGHT}


@pytest.mark.parametrize("name", GUIDES)
def test_names_of_tables_and_columns_are_known(name):
    like_one = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*_(sum|trace|ns|us|pct|bytes|tokens|per_s|p50|p99)")
    assert {word for word in words_of_code(GUIDES[name]) if like_one.fullmatch(word)} <= known_names()


@pytest.mark.parametrize("name", GUIDES)
def test_options_in_sentences_are_known(name):
    found = {one for word in words_of_code(GUIDES[name]) for one in re.findall(r"(?<![\w=-])--[a-z][a-z-]*", word)}
    assert found <= options_of(get_command(app)) | OF_OTHERS


@pytest.mark.parametrize("name", GUIDES)
def test_exit_codes_in_sentences_are_known(name):
    raised = {error.exit_code for error in DsprofError.__subclasses__()} | set(findings.STRICT_EXITS.values())
    codes = re.findall(
        r"exit\s+codes?\s+(\d+)|\(exit\s+(\d+)\)|`--strict`\s+(\d+)(?:\s+and\s+(\d+))?", prose(GUIDES[name])
    )
    assert {int(code) for found in codes for code in found if code} <= raised | {0, 1, 2, 130, 141}


@pytest.mark.parametrize("name", GUIDES)
def test_files_in_sentences_are_there(name):
    files = {
        path.name for path in (*ROOT.rglob("src/**/*.py"), *ROOT.glob("tests/*.py"), *ROOT.glob("benchmarks/*.py"))
    }
    named = {word.rpartition("/")[2] for word in words_of_code(GUIDES[name]) if re.fullmatch(r"[\w/]+\.py", word)}
    assert named <= files


@pytest.mark.parametrize("name", LINKED)
def test_no_page_knows_a_machine(name):
    assert not re.search(r"/(root|work|home/\w+)/", LINKED[name].read_text(encoding="utf-8"))


# -- code ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    sorted({code for page in PAGES.values() for code in blocks(page, "python")}),
    ids=lambda code: code.split("\n")[0],
)
def test_python_runs(code, desk):
    for extra, used in {"transformers": "transformers", "matplotlib": "plots", "duckdb": ".query("}.items():
        if extra in code or used in code:
            pytest.importorskip(extra, reason="it comes with an extra")
    exec(compile(code, "a page of docs", "exec"), {})


def test_rules_of_families_are_read(desk):
    found = [rules for page in PAGES.values() for rules in blocks(page, "toml") if rules.startswith("[[family]]")]
    assert found
    for rules in found:
        (desk / "mine.toml").write_text(rules)
        result = CliRunner().invoke(app, ["analyze", "run.nsys-rep", "--families", "mine.toml"])
        assert result.exit_code == 0, result.output


def test_rules_files_are_read(desk):
    found = [rules for page in PAGES.values() for rules in blocks(page, "toml") if not rules.startswith("[[family]]")]
    assert found
    for rules in found:
        (desk / "dsprof.toml").write_text(rules)
        assert read_rules_file(desk / "dsprof.toml").named.model_config is not None


def test_workflows_call_what_there_is():
    """The lines of a workflow that call dsprof are read as any other."""
    found = [line for page in PAGES.values() for block in blocks(page, "yaml") for line in block.splitlines()]
    called = [line.strip().removeprefix("- run: ").removeprefix("run: ") for line in found]
    calls = [line.removeprefix("dsprof ").partition(" > ")[0] for line in called if line.startswith("dsprof ")]
    assert calls
    for call in calls:
        test_commands_are_read(call)


@pytest.mark.parametrize("name", PAGES)
def test_no_other_kind_of_code_stands_in_a_page(name):
    """What is fenced is tested: a language that no test here knows would not be."""
    opened = re.findall(r"^```(.*)$", PAGES[name].read_text(encoding="utf-8"), re.MULTILINE)[::2]
    assert set(opened) <= {"console", "python", "toml", "yaml"}


# -- what the pages are made of ------------------------------------------------------------------------------


@pytest.mark.parametrize("table", all_tables().values(), ids=lambda table: table.name)
def test_columns_have_sentences_and_units(table):
    assert len({column.name for column in table.columns}) == len(table.columns)
    for column in table.columns:
        assert column.text.endswith((".", "…")), column.name
        assert column.kind == "name" or column.name == column.name.lower()


def test_architecture_names_every_table():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert [name for name in all_tables() if f"`{name}`" not in text] == []
