import json

import pytest
from typer.testing import CliRunner

from studies.__main__ import app


def test_what_removals_have_in_common_is_the_offset(tmp_path):
    words = ["offset", "--out", str(tmp_path), "--networks", "logistic", "--epochs", "2", "--groups", "4"]
    result = CliRunner().invoke(app, [*words, "--quiet", "--json", str(tmp_path / "figures.json")])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["logistic weight, common actual"] == figures["logistic weight actual"]
    of_the_rest = figures["logistic renormalised, 1/(1 - s) slope"]
    assert of_the_rest == pytest.approx(0.9 * figures["logistic renormalised slope"], rel=1e-6)
    for removal in ("weight", "renormalised"):  # fewer samples raise the loss beyond what is linear
        plain, pairs = (figures[f"logistic {removal}{more} predicted"] for more in ("", ", pairs"))
        assert plain < pairs
