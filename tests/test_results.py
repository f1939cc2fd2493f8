"""The tables of docs/results.md are what `python docs/results` writes from the rows."""

import runpy

import pytest

from documents import ROOT

DOCUMENT = (ROOT / "docs" / "results.md").read_text()
COMMAND = runpy.run_path(str(ROOT / "docs" / "results"), run_name="results")


def test_writing_the_tables_leaves_the_document_unchanged():
    assert COMMAND["rewritten"](DOCUMENT) == DOCUMENT


@pytest.mark.parametrize("name", COMMAND["TABLES"])
def test_the_document_has_every_table_that_the_command_writes(name):
    assert DOCUMENT.count(f"<!-- table: {name} -->\n\n| ") == 1


def test_a_changed_number_in_a_table_is_replaced():
    changed = DOCUMENT.replace("| 0.9994 ± 0.0001 |", "| 0.9995 ± 0.0001 |")
    assert changed != DOCUMENT
    assert COMMAND["rewritten"](changed) == DOCUMENT


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError, match="unknown"):
        COMMAND["rewritten"]("<!-- table: unknown -->\n<!-- end -->")
