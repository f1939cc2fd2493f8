"""Suspects: order, suggestions, truth beside them, and data sets without or relabelled."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

import hydragrad as hg
from hydragrad.cleaning import area_under_roc, estimated_share, found_in_first, without
from hydragrad.cleaning.detection import detection_curve
from hydragrad.errors import DataError, LossError
from labelled_items import LAYOUTS, SAMPLES, Items, cross_entropy, held_out, model, train, vectors


def test_flipped_labels_come_first_with_the_true_label_suggested(noisy_run):
    run, labels, scores = noisy_run
    ranked = hg.suspects(run, scores, signals=None)
    assert list(ranked) == [
        "sample",
        "given_label",
        "suggested_label",
        "suspicion",
        "contribution",
        "true_label",
        "flipped",
    ]
    assert ranked["contribution"].is_monotonic_increasing
    flips = int(labels.flipped.sum())
    assert ranked["flipped"].head(flips).all()
    assert (ranked["suggested_label"] == ranked["true_label"]).all()
    assert ranked["contribution"].iloc[0] == scores.row().min().item()
    assert area_under_roc(ranked) == 1.0
    assert found_in_first(ranked, 0.1) == 1.0
    assert estimated_share(ranked) == pytest.approx(flips / 80)


def test_what_training_says_stands_beside_the_contribution(noisy_run):
    run, labels, scores = noisy_run
    ranked = hg.suspects(run, scores)
    assert list(ranked)[2:7] == ["suggested_label", "suspicion", "contribution", "loss", "margin"]
    assert ranked["suspicion"].is_monotonic_decreasing
    assert (ranked["suggested_label"] == ranked["true_label"]).all()
    assert estimated_share(ranked) == pytest.approx(float(labels.flipped.float().mean()))
    by_sample = ranked.set_index("sample").sort_index()
    assert by_sample["contribution"].tolist() == scores.row().tolist()


def test_standard_errors_stand_beside_their_contribution(noisy_run):
    run, _, scores = noisy_run
    ranked = hg.suspects(run, replace(scores, standard_errors=scores.values.abs() / 4), signals=None)
    assert (ranked["standard_error"] == ranked["contribution"].abs() / 4).all()


def test_a_subset_of_samples_and_no_suggestions(noisy_run):
    run, _, _ = noisy_run
    query = hg.mean_loss(run.train_set)
    ranked = hg.suspects(run, hg.attribute(run, query, samples=[5, 3, 8]), signals=None)
    assert sorted(ranked["sample"]) == [3, 5, 8]
    assert "suggested_label" not in ranked
    assert estimated_share(ranked) == pytest.approx(float((ranked["contribution"] < 0).mean()))


def test_the_detection_curve_ends_at_everything(noisy_run):
    run, labels, scores = noisy_run
    inspected, found = detection_curve(hg.suspects(run, scores))
    assert (inspected[0], found[0], inspected[-1], found[-1]) == (0, 0, 1, 1)
    assert found[int(labels.flipped.sum())] == 1


class Pairs(Dataset):
    def __init__(self, labels):
        self.values = labels

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return torch.zeros(2), self.values[index]


def test_samples_are_left_out():
    for dataset in (TensorDataset(torch.zeros(3, 2), torch.tensor([2, 0, 1])), Pairs([2, 0, 1])):
        assert [int(label) for _, label in without(dataset, [1])] == [2, 1]
    with pytest.raises(DataError, match="leaves nothing to train on"):
        without(Pairs([1, 2]), [0, 1])


@pytest.mark.parametrize("signals", ["auto", None])
def test_suspects_speak_of_the_label_among_other_integers(signals, tmp_path):
    for name in ("x, length, y", "index, x, y", "one-hot", "smoothed"):
        layout, (_, given) = LAYOUTS[name], vectors(SAMPLES, 1)
        run = train(layout, tmp_path / name)
        ranked = hg.suspects(run, hg.attribute(run, hg.mean_loss(held_out(layout))), signals=signals)
        by_sample = ranked.set_index("sample").sort_index()
        assert by_sample["given_label"].tolist() == given
        if signals is not None:
            logits = run.trained_model()(vectors(SAMPLES, 1)[0])
            losses = cross_entropy(logits, torch.tensor(given))
            assert by_sample["loss"].tolist() == pytest.approx(losses.tolist())


@pytest.mark.parametrize("signals", ["auto", None])
def test_a_list_of_other_labels_is_warned_of(signals, tmp_path):
    layout = LAYOUTS["x, y, index"]
    data = Items(layout, *vectors(SAMPLES, 1))
    run = train(layout, tmp_path / "run", data)
    scores = hg.attribute(run, hg.mean_loss(held_out(layout)))
    data.targets = [(label + 1) % 3 for label in data.labelled]
    with pytest.warns(UserWarning, match="own list of labels differs .* for 18 of 18 samples"):
        ranked = hg.suspects(run, scores, signals=signals)
    assert ranked.set_index("sample").sort_index()["given_label"].tolist() == data.labelled


@pytest.mark.parametrize("signals", ["auto", None])
def test_data_without_labels_have_no_suspects(signals, tmp_path):
    x, _ = vectors(SAMPLES, 1)
    trained, data = model(), TensorDataset(x, x[:, :3] * 2, torch.arange(SAMPLES) % 3)

    def squares(model, batch):
        return (model(batch[0]) - batch[1] / 7).square().mean(1)

    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    run = hg.train(trained, squares, data, optimizer, epochs=1, batch_size=6, out=tmp_path / "run")
    query = hg.mean_loss(TensorDataset(*(tensor[:6].clone() for tensor in data.tensors)))
    with pytest.raises(LossError, match=r"with no such tensor of the batch.*no tensor of the batch behaves as one"):
        hg.suspects(run, hg.attribute(run, query), signals=signals)
