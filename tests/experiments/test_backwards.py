"""Names spelled backwards, planted in a text."""

import pytest
import torch

import small_texts
from hydragrad.datasets import load_text
from hydragrad.errors import DataError
from hydragrad.experiments.backwards import spelled_backwards


@pytest.fixture
def names(tmp_path, monkeypatch):
    return load_text("names", data_dir=small_texts.install(monkeypatch, tmp_path / "text"))


def test_a_share_of_the_names_is_spelled_backwards_and_known(names):
    changed, planted = spelled_backwards(names.train, share=0.25, seed=0)
    assert planted.sum() == 60
    for before, after, wrong in zip(names.train, changed, planted, strict=True):
        assert names.text(after) == (names.text(before)[::-1] if wrong else names.text(before))
        assert torch.equal(after[0][1:][after[1][1:] >= 0], after[1][:-1][after[1][1:] >= 0]), "what is read follows"
        assert (names.text(after) != names.text(before)) == wrong


def test_the_seed_selects_the_names(names):
    first, again, other = (spelled_backwards(names.train, share=0.1, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_that_is_none_is_refused(names, share):
    with pytest.raises(
        DataError, match=rf"names to spell backwards must be between 0 and 23\d/240 \(.*\), got {share}"
    ):
        spelled_backwards(names.train, share=share, seed=0)
