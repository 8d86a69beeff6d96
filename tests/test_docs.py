"""The README says what the program does today."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import readme
from dsprof.cli import app
from dsprof.tables import all_tables

ROOT = Path(__file__).resolve().parent.parent


DOCS = [readme.README, *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def titles(page: Path) -> set[str]:
    """What a link may point at within a page, as GitHub names it."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_generated_parts_are_current(page: Path):
    assert readme.filled(page) == page.read_text(), "run `make readme`"


@pytest.mark.parametrize("page", [*DOCS, *ROOT.glob("*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for link in _LINK.findall(page.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        file, _, title = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not title or title in titles(target), link


def test_the_readme_is_a_page_and_leads_to_all_others():
    text = readme.README.read_text()
    assert len(text.splitlines()) <= 190
    assert [page.name for page in DOCS[1:] if f"(docs/{page.name})" not in text] == []


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_the_pages_show_each_command(command):
    for page in (readme.README, ROOT / "docs/commands.md"):
        assert f"dsprof {command}" in page.read_text()


SHOWN = sorted({line for page in DOCS for line in re.findall(r"^\$ dsprof (.+?)(?:\s+#.*)?$", page.read_text(), re.M)})


@pytest.mark.parametrize("line", SHOWN)
def test_commands_that_are_shown_are_commands(line):
    """Each is taken apart as the command line does: it knows all the options."""
    name, *arguments = shlex.split(line)
    command = get_command(app).commands[name]
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    with command.make_context(name, arguments):
        pass


def test_a_wrong_command_would_be_found():
    with pytest.raises(Exception, match="--nosuch"):
        test_commands_that_are_shown_are_commands("analyze run.nsys-rep --nosuch")


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_each_help_text_carries_an_example(command):
    assert f"Example: dsprof {command}" in get_command(app).commands[command].epilog


@pytest.mark.parametrize("table", all_tables().values(), ids=lambda table: table.name)
def test_columns_have_sentences_and_units(table):
    assert len({column.name for column in table.columns}) == len(table.columns)
    for column in table.columns:
        assert column.text.endswith((".", "…")), column.name
        assert column.kind == "name" or column.name == column.name.lower()


def test_changelog_and_architecture_name_every_table():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert [name for name in all_tables() if f"`{name}`" not in text] == []
