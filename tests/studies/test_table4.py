"""Table 4: kinds of noise, what is kept, and figures that agree with the ranking they speak of."""

import pytest

from hydragrad.cleaning import area_under_roc, suspects
from hydragrad.datasets import load
from hydragrad.errors import DataError
from hydragrad.studies import Setting, reproduce_table4, table4
from hydragrad.studies.table4 import Case, Row, noisy_labels, summary

SETTING = Setting(data="digits", noise="0.3", size=120, epochs=2, seed=0, lr=0.05)
METHODS = ("hydragrad", "HYDRA", "small loss", "self-confidence")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("table4")
    return out, reproduce_table4(out, SETTING, methods=METHODS, filtering=("hydragrad",))


def row_of(rows, method, action):
    (found,) = [row for row in rows if (row.method, row.action) == (method, action)]
    return found


def test_every_method_is_ranked_and_one_cleaned_after(study):
    _, rows = study
    assert [row.method for row in rows if row.action == "rank"] == list(METHODS)
    wrong = row_of(rows, "no filtering", "nothing").wrong
    assert 30 <= wrong <= 36  # the floor of 30 % of each of ten classes
    assert row_of(rows, "hydragrad", "remove known share").changed == wrong
    for action in ("remove suspects", "relabel suspects"):
        assert 0 < row_of(rows, "hydragrad", action).changed < 120
    assert all(0 <= row.accuracy <= 1 for row in rows if row.action != "rank")


def test_figures_are_those_of_the_default_suspects(study):
    out, rows = study
    case = Case(SETTING, out / SETTING.name, None, 1)
    ranked = suspects(case.run, case.scores("validation", "none"))
    assert row_of(rows, "hydragrad", "rank").auc == pytest.approx(area_under_roc(ranked), abs=1e-9)


def test_finished_measurements_are_not_made_again(study, monkeypatch):
    out, rows = study
    monkeypatch.setattr(table4, "fit", lambda *_: pytest.fail("trained twice"))
    assert reproduce_table4(out, SETTING, methods=METHODS, filtering=("hydragrad",)) == rows


def test_kinds_of_noise():
    splits = load("digits", train_size=500)
    swapped = noisy_labels(Setting(data="digits", noise="swap-0.2", size=500, epochs=1, seed=0), splits, None)
    pairs = {frozenset(pair) for pair in table4.SIMILAR["digits"]}
    changed = swapped.flipped.nonzero().flatten().tolist()
    assert 0 < len(changed) <= 100
    assert all(frozenset((int(swapped.given[i]), int(swapped.true[i]))) in pairs for i in changed)
    with pytest.raises(DataError, match=r"swap-0\.3"):
        noisy_labels(Setting(data="digits", noise="lots", size=500, epochs=1, seed=0), splits, None)


def test_the_summary_gives_mean_and_spread():
    rows = [
        Row(setting="a", method="m", action="rank", wrong=1, samples=2, auc=auc, found_10=0.1, found_20=0.2)
        for auc in (0.8, 0.9)
    ]
    rows.append(Row(setting="a", method="m", action="remove suspects", wrong=1, samples=2, accuracy=0.5))
    (line,) = summary(rows).itertuples(index=False)
    assert list(line) == ["m", "0.850 ± 0.071", "0.100 ± 0.000", "0.200 ± 0.000", "-", "50.00", "-"]
