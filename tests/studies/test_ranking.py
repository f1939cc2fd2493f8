"""The study of the default ranking: its rows are those of `hg.suspects`, and are not measured twice."""

import pytest

import hydragrad as hg
from studies import ranking
from studies.noisy_run import NoisyRun, Setting
from studies.ranking import reproduce_ranking

SETTING = Setting(data="digits", noise="0.3", size=120, epochs=2, seed=0, lr=0.05)


def test_the_default_is_that_of_suspects_and_rows_are_reused(tmp_path, monkeypatch):
    rows = reproduce_ranking(tmp_path, [SETTING])
    aucs = {row.ranking: row.auc for row in rows}
    assert len(aucs) == len(rows) == 8 and all(row.wrong == 31 for row in rows)
    case = NoisyRun(SETTING, tmp_path / SETTING.name, None, 1)
    ranked = hg.suspects(case.run, case.scores("validation", "none"), held_out=case.query("validation"))
    wrong, right = ranked[ranked["flipped"]], ranked[~ranked["flipped"]]
    for name, column, sign in (
        ("hydragrad", "suspicion", 1),
        ("contributions", "contribution", -1),
        ("influence, averaged", "influence", -1),
    ):
        above = (sign * wrong[column].to_numpy()[:, None] > sign * right[column].to_numpy()).mean()
        assert aucs[name] == pytest.approx(above, abs=1e-9)
    monkeypatch.setattr(ranking, "_measured", lambda *_: pytest.fail("measured twice"))
    assert reproduce_ranking(tmp_path, [SETTING]) == rows
