"""The study of groups: what is planted, and that its counts are those of the rankings."""

import pytest
import torch

from studies import groups
from studies.groups import planted, reproduce_groups


def test_a_quarter_of_a_class_and_some_others_are_wrong():
    true = torch.arange(2000) % 10
    given = planted(true, 4, 9, 0)
    changed = given != true
    assert (changed & (true == 4)).sum() == 50 and (given[changed & (true == 4)] == 9).all()
    assert changed.sum() == 150


def test_rows_are_counted_once(tmp_path, monkeypatch):
    rows = reproduce_groups(tmp_path, data="digits", seeds=[0], size=500, epochs=3)
    by_order = {row.order: row for row in rows}
    assert len(by_order) == 4
    assert by_order["as many first suspects"].samples == by_order["groups, most harmful first"].samples
    assert all(0 <= row.wrong <= min(row.samples, row.all_wrong) for row in rows)
    largest = by_order["groups, largest first"].samples
    assert (
        by_order["groups, most harmful first"].samples
        <= largest
        <= by_order["pairs of labels, most frequent first"].samples
    )
    monkeypatch.setattr(groups, "_measured", lambda *_: pytest.fail("measured twice"))
    assert reproduce_groups(tmp_path, data="digits", seeds=[0], size=500, epochs=3) == rows
