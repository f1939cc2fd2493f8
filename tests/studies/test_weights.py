"""The search for the weights of the default ranking: the chosen ones are on the grid and rank as `hg.suspects` does."""

import pytest

import hydragrad as hg
from hydragrad.cleaning.suspicion import WEIGHTS, Weights
from studies import weights
from studies.noisy_run import NoisyRun, Setting
from studies.weights import BY_SHARE, FILTERED_INFLUENCE, _combinations, reproduce_filtering, reproduce_weights

SETTINGS = [Setting(data="digits", noise=noise, size=120, epochs=2, seed=0, lr=0.05) for noise in ("0.3", "swap-0.3")]


def test_the_grid_holds_the_chosen_weights_and_each_combination_once():
    every = list(_combinations())
    assert WEIGHTS in every
    assert Weights(contribution=0, above=0, influence=0) in every
    assert len(set(every)) == len(every) == 60


def test_the_chosen_weights_rank_as_the_default_does(tmp_path):
    found = reproduce_weights(tmp_path, settings=SETTINGS, label_errors=False)
    names = [each.name for each in SETTINGS]
    assert found["mean"].is_monotonic_decreasing
    assert found["mean"].to_numpy() == pytest.approx(found[names].mean(axis=1).to_numpy())
    chosen = found[(found["contribution"] == 0.35) & (found["above"] == 0.5)]
    chosen = chosen[chosen["influence"] == BY_SHARE].iloc[0]
    case = NoisyRun(SETTINGS[0], tmp_path / names[0], None, 1)
    ranked = hg.suspects(case.run, case.scores("validation", "none"), held_out=case.query("validation"))
    wrong, right = ranked[ranked["flipped"]]["suspicion"], ranked[~ranked["flipped"]]["suspicion"]
    above = (wrong.to_numpy()[:, None] > right.to_numpy()).mean()
    assert chosen[names[0]] == pytest.approx(above, abs=1e-9)


def test_every_weight_of_influence_is_trained_after_once(tmp_path, monkeypatch):
    rows = reproduce_filtering(tmp_path, settings=SETTINGS[:1])
    assert [row.influence for row in rows] == list(FILTERED_INFLUENCE)
    assert all(0 <= row.accuracy <= 1 for row in rows)
    monkeypatch.setattr(weights, "_filtered", lambda *_: pytest.fail("measured twice"))
    assert reproduce_filtering(tmp_path, settings=SETTINGS[:1]) == rows
