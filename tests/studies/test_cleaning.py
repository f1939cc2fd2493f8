"""The study of clean: rows of every treatment, measured once, and what its table says."""

import pytest

from hydragrad.cleaning import AS_GIVEN
from studies import cleaning
from studies.cleaning import TRUE, CleaningRow, measure, table
from studies.noisy_run import Setting

SETTING = Setting(data="digits", noise="0.3", size=200, epochs=6, seed=1, lr=0.05)


def test_treatments_are_measured_once(tmp_path, monkeypatch):
    rows = measure(tmp_path, SETTING)
    assert [row.treatment for row in rows[:2]] == [AS_GIVEN, f"{AS_GIVEN}, again"] and rows[-1].treatment == TRUE
    assert sum(row.recommended for row in rows) == 1 and not rows[-1].recommended
    assert all(0 <= row.accuracy <= 1 for row in rows)
    assert {row.wrong for row in rows} == {rows[-1].changed / 200}
    monkeypatch.setattr(cleaning, "clean", lambda *_, **__: pytest.fail("measured twice"))
    assert measure(tmp_path, SETTING) == rows
    head, ((setting, *_),) = table(rows)
    assert len(head) == 7 and setting == "digits-0.3-200-lenet5-e6-lr0.05"


def test_the_table_says_what_was_recommended_and_what_it_gained():
    def rows(seed, best, accuracy):
        common = {"setting": "s", "seed": seed, "changed": 0, "chosen_by": 0.5, "wrong": 0.3, "low": 0.2, "high": 0.4}
        names = {AS_GIVEN: 0.8, "30 suspects removed": 0.9, "30 suspects down-weighted": accuracy, TRUE: 0.95}
        return [
            CleaningRow(treatment=name, recommended=name == best, accuracy=value, **common)
            for name, value in names.items()
        ]

    _, ((*_, given, best, true, gain, kinds),) = table(
        rows(1, "30 suspects removed", 0.7) + rows(2, "30 suspects down-weighted", 0.84) + rows(3, AS_GIVEN, 0.7)
    )
    assert (given, best, true) == ("80.0 %", "84.7 %", "95.0 %")
    assert gain == "+4.67 (+0.00 to +10.00)"
    assert kinds == "removed 1, down-weighted 1, labels as given 1"
