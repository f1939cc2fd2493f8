"""The support matrix of the documentation is what `hg.check` says, of every optimizer with a rule."""

import runpy

import pytest

from documents import ROOT
from hydragrad.steps import RULES
from hydragrad.torch_release import MUON

every_optimizer = pytest.mark.skipif(MUON is None, reason="the tables have Muon, which torch has from 2.9 on")

COMMAND = runpy.run_path(str(ROOT / "docs" / "matrix"), run_name="matrix")
DOCUMENT = (ROOT / "docs" / "support.md").read_text()
ROWS = {(row["optimizer"], row["feature"]): row for row in COMMAND["read_rows"]()}
FEATURES = COMMAND["FEATURES"]
OPTIMIZERS = sorted(kind.__name__ for kind in RULES if kind.__module__.startswith("torch."))
AGAIN = "Run `make matrix`."


@every_optimizer
def test_the_matrix_has_every_optimizer_with_every_feature():
    assert sorted(ROWS) == sorted((optimizer, feature) for optimizer in OPTIMIZERS for feature in FEATURES), AGAIN


@every_optimizer
def test_writing_the_tables_leaves_the_document_unchanged():
    assert COMMAND["rewritten"](DOCUMENT, list(ROWS.values())) == DOCUMENT, AGAIN


@pytest.mark.parametrize("name", COMMAND["TABLES"])
def test_the_document_has_every_table(name):
    assert DOCUMENT.count(f"<!-- table: {name} -->\n\n| ") == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_plain_loop_of_every_optimizer_is_as_the_matrix_says(optimizer):
    assert COMMAND["measured"](optimizer, "plain") == ROWS[optimizer, "plain"], AGAIN


@pytest.mark.parametrize("feature", [feature for feature in FEATURES if feature != "plain"])
def test_every_feature_is_as_the_matrix_says(feature):
    optimizer = OPTIMIZERS[list(FEATURES).index(feature) % len(OPTIMIZERS)]
    assert COMMAND["measured"](optimizer, feature) == ROWS[optimizer, feature], AGAIN


@every_optimizer
def test_a_changed_cell_is_written_again():
    changed = DOCUMENT.replace("| `SGD` | yes | hooks |", "| `SGD` | yes | jvp |")
    assert changed != DOCUMENT and COMMAND["rewritten"](changed, list(ROWS.values())) == DOCUMENT
