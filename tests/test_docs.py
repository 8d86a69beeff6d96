"""The README says what the program does today."""

from pathlib import Path

import pytest
from typer.main import get_command

import readme
from dsprof.cli import app
from dsprof.tables import all_tables

ROOT = Path(__file__).resolve().parent.parent


def test_generated_parts_of_the_readme_are_current():
    text = readme.README.read_text()
    assert readme.filled(text) == text, "run `make readme`"


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_readme_shows_each_command(command):
    assert f"dsprof {command}" in readme.README.read_text()


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
