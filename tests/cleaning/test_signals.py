"""Signals of training: probabilities at the end, on the way and out of fold; what speaks against a label."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.cleaning import Signals, training_signals
from hydragrad.cleaning.suspicion import against, normal_scores, suspicion
from hydragrad.errors import LossError, QueryError


def logits_at(run, checkpoint):
    with torch.no_grad():
        return torch.nn.functional.linear(
            run.train_set.tensors[0], checkpoint.parameters["weight"], checkpoint.parameters["bias"]
        ).double()


def test_the_way_is_the_mean_over_checkpoints_and_the_end(noisy_run):
    run, labels, _ = noisy_run
    found = training_signals(run, points=3)
    starts = [start for start, _ in run.segments if start > 0]
    states = [run.checkpoint(starts[0]), run.checkpoint(starts[-1]), run.final]
    logits = torch.stack([logits_at(run, state) for state in states])
    assert torch.equal(found.given, labels.given)
    torch.testing.assert_close(found.at_end, logits[-1].softmax(1))
    torch.testing.assert_close(found.over_training, logits.softmax(2).mean(0))
    sign = 2.0 * labels.given - 1
    torch.testing.assert_close(found.margin, (sign * (logits[..., 1] - logits[..., 0])).mean(0))
    assert found.out_of_fold is None


def test_early_checkpoints_are_dense_at_the_start_and_rank(noisy_run):
    run, _, _ = noisy_run
    found = training_signals(run, points=4)
    length = len(run.steps)
    recorded = [*(start for start, _ in run.segments), length][1:]
    steps = {min(recorded, key=lambda step: abs(step - length * (k / 4) ** 3)) for k in range(1, 5)}
    states = [run.final if step == length else run.checkpoint(step) for step in sorted(steps)]
    early = torch.stack([logits_at(run, state).softmax(1) for state in states]).mean(0)
    torch.testing.assert_close(found.early, early)
    nothing = torch.zeros(80)
    torch.testing.assert_close(suspicion(found, nothing), normal_scores(against(early, found.given)))
    by_hand = replace(found, early=None)
    expected = normal_scores(against(found.over_training, found.given))
    torch.testing.assert_close(suspicion(by_hand, nothing), expected)


def test_out_of_fold_is_by_runs_without_the_sample(noisy_run):
    run, labels, _ = noisy_run
    found = training_signals(run, points=1, folds=2)
    wrong = labels.flipped
    given = found.out_of_fold.gather(1, labels.given[:, None])[:, 0]
    assert given[wrong].max() < 0.5 < given[~wrong].min()  # separated clouds: who never saw the label denies it
    assert not torch.allclose(found.out_of_fold, found.at_end, atol=1e-4)
    torch.testing.assert_close(found.out_of_fold.sum(1), torch.ones(80, dtype=torch.float64))


def test_signals_are_kept_and_measured_again_where_the_file_is_cut_off(noisy_run, monkeypatch):
    run, _, _ = noisy_run
    first = training_signals(run, points=2)
    (file,) = (run.path / "signals").glob("*points2-folds0*")
    kept = file.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("hydragrad.cleaning.signals._measure", lambda *_: pytest.fail("measured twice"))
        assert torch.equal(training_signals(run, points=2).over_training, first.over_training)
    file.write_bytes(kept[: len(kept) // 2])
    assert torch.equal(training_signals(run, points=2).over_training, first.over_training)
    assert file.read_bytes() == kept


def test_a_single_fold_is_refused(noisy_run):
    with pytest.raises(QueryError, match="folds must be 0, or 2 to 80, the number of samples; got 1"):
        training_signals(noisy_run[0], folds=1)


def test_what_speaks_against_a_label():
    probabilities = torch.tensor([[0.2, 0.7, 0.1], [0.2, 0.7, 0.1]])
    torch.testing.assert_close(against(probabilities, torch.tensor([0, 1])), torch.tensor([0.5, -0.5]))


def test_normal_scores_know_ranks_only():
    scores = normal_scores(torch.tensor([3.0, -1e9, 4.0]))
    torch.testing.assert_close(scores, torch.tensor([0.0, -0.9674, 0.9674], dtype=torch.float64), atol=1e-4, rtol=0)


def test_contributions_and_influence_add_to_what_training_says(noisy_run):
    run, labels, scores = noisy_run
    signals, nothing = training_signals(run), torch.zeros(80)
    alone, heard = suspicion(signals, nothing), suspicion(signals, scores.row())
    harm = normal_scores(-scores.row())
    torch.testing.assert_close(heard - alone, 0.35 * (harm - 0.5).clamp(min=0))  # who helps is not less suspect for it
    weighed = suspicion(signals, scores.row(), scores.row())
    torch.testing.assert_close(weighed - heard, 0.5 * harm)
    ranked = hg.suspects(run, scores)
    assert ranked["suspicion"].tolist() == heard.sort(descending=True).values.tolist()
    assert ranked["flipped"].head(int(labels.flipped.sum())).all()


@pytest.mark.parametrize(("disagrees", "weight"), [(0.0, 0.1), (0.3, 0.5), (0.6, 0.5), (0.7, 5), (0.9, 500)])
def test_influence_counts_more_where_training_disagrees_with_most_labels(disagrees, weight):
    over_training = torch.tensor([[0.7, 0.3]]).repeat(10, 1)
    given = torch.tensor([1] * round(10 * disagrees) + [0] * (10 - round(10 * disagrees)))
    signals = Signals(given=given, at_end=over_training, over_training=over_training, margin=torch.zeros(10))
    nothing, influence = torch.zeros(10), torch.linspace(-1, 1, 10)
    added = suspicion(signals, nothing, influence) - suspicion(signals, nothing)
    torch.testing.assert_close(added, weight * normal_scores(-influence))


def test_influence_on_held_out_data_is_taken_in_and_kept(noisy_run, monkeypatch):
    run, labels, scores = noisy_run
    held_out = hg.mean_loss(TensorDataset(run.train_set.tensors[0][:20], labels.true[:20]))
    ranked = hg.suspects(run, scores, held_out=held_out)
    by_sample = ranked.set_index("sample").sort_index()
    influence = torch.from_numpy(by_sample["influence"].to_numpy(copy=True))
    expected = suspicion(training_signals(run), scores.row(), influence)
    assert by_sample["suspicion"].tolist() == expected.tolist()
    assert influence[labels.flipped].max() < influence[~labels.flipped].median()
    averaged = hg.influence(run, held_out, checkpoints=5, iterations=10).row()
    torch.testing.assert_close(influence, averaged)
    monkeypatch.setattr("hydragrad.cleaning.held_out.influence_at", lambda *_, **__: pytest.fail("measured twice"))
    assert hg.suspects(run, scores, held_out=held_out).equals(ranked)
    (file,) = (run.path / "signals").glob("influence-*")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(pytest.fail.Exception, match="measured twice"):  # a damaged file is not believed
        hg.suspects(run, scores, held_out=held_out)


def test_influence_on_several_losses_is_refused(noisy_run):
    run, _, scores = noisy_run
    with pytest.raises(QueryError, match="takes one scalar"):
        hg.suspects(run, scores, held_out=hg.sample_losses(run.train_set, [0, 1]))


def test_a_loss_without_a_gauss_newton_matrix_does_without_influence(noisy_run, monkeypatch):
    run, _, scores = noisy_run

    def refused(*_, **__):
        raise LossError("a penalty")

    monkeypatch.setattr("hydragrad.cleaning.held_out.influence_at", refused)
    other = hg.mean_loss(run.train_set)
    assert "influence" not in hg.suspects(run, scores, held_out=other)
