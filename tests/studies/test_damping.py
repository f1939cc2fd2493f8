"""The search for a damping: one row a candidate, kept, and no look at what is wrong."""

import pytest

from studies import damping
from studies.damping import reproduce_damping
from studies.noisy_run import Setting

SETTING = Setting(data="digits", noise="0.3", size=120, epochs=1, seed=0, lr=0.05)


def test_candidates_are_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.rankings.ITERATIONS", 3)
    rows = reproduce_damping(tmp_path, SETTING, dampings=(1.0, 0.1))
    assert [row.damping for row in rows] == [0.1, 1.0]
    assert all(0 <= row.accuracy <= 1 and 0 <= row.auc <= 1 for row in rows)
    monkeypatch.setattr(damping, "influence_ranking", lambda *_: pytest.fail("measured twice"))
    assert reproduce_damping(tmp_path, SETTING, dampings=(1.0, 0.1)) == rows
