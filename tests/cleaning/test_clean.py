"""Treatments of suspects, really trained: what helps is recommended, what does not is said; shares of wrong labels."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.cleaning import AGAIN, AS_GIVEN, Remedy, Signals, flip_labels
from hydragrad.cleaning.remedies import down_weighted, relabelled
from hydragrad.cleaning.suspects import WRONG_SHARE
from hydragrad.cleaning.suspicion import against
from hydragrad.cleaning.wrong_share import HeldOutErrors, held_out_errors, wrong_share
from hydragrad.errors import QueryError
from hydragrad.randomness import seeded
from hydragrad.replay.changed_run import Change
from hydragrad.replay.retraining import retrain

TRAINED, CLASSES = 400, 10


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def digits():
    data = load_digits()
    return torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)


def trained_on(labels, out):
    x, _ = digits()
    with seeded(0):
        model = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train_set = TensorDataset(x[:TRAINED], labels)
    return hg.train(model, cross_entropy, train_set, optimizer, epochs=12, batch_size=32, out=out)


def held_out(part):
    x, y = digits()
    return TensorDataset(x[TRAINED:][part::2], y[TRAINED:][part::2])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A run with 40 % flips, and its suspects."""
    labels = flip_labels(digits()[1][:TRAINED], 0.4, classes=CLASSES, seed=0)
    run = trained_on(labels.given, tmp_path_factory.mktemp("noisy") / "run")
    query = hg.mean_loss(held_out(0))
    return run, labels, hg.suspects(run, hg.attribute(run, query), held_out=query)


def test_treatments_of_planted_noise_help_and_the_best_is_recommended(noisy):
    run, _, suspects = noisy
    cleaning = hg.clean(run, suspects, held_out(1))
    frame = cleaning.to_frame()
    share = suspects.attrs[WRONG_SHARE]
    assert 0.2 < share["low"] < 0.4 < share["high"] and share["contradicted"] == pytest.approx(0.4, abs=0.05)
    few, many = int(share["low"] * TRAINED), int(share["contradicted"] * TRAINED)
    wanted = [f"{few} suspects removed", f"{many} suspects removed", f"{many} suspects down-weighted"]
    assert [*frame.index[:2], *frame.index[[2, 3, -1]]] == [AS_GIVEN, AGAIN, *wanted]
    assert frame["changed"].tolist() == [0, 0, few, many, few, many, many]
    assert frame["gain"].iloc[0] == 0 and frame["gain_error"].iloc[0] == 0
    best = max(cleaning.outcomes, key=lambda one: one.gain)
    assert cleaning.recommended is best
    assert best.gain > 0.03 and best.gain > best.gain_error
    assert cleaning.sentence.startswith(f"With {best.remedy.name} the held-out result is better by")
    assert hg.clean(run, suspects, held_out(1), treatments=[]).outcomes[0].accuracy == frame["accuracy"][AS_GIVEN]


def test_an_outcome_is_the_run_retrained_and_its_gain_is_paired(noisy):
    run, _, suspects = noisy
    cleaning = hg.clean(run, suspects, held_out(1), treatments=["remove"], share=0.3)
    worst = suspects["sample"].head(120).tolist()
    weights = dict.fromkeys(range(TRAINED), 400 / 280) | dict.fromkeys(worst, 0.0)
    ((_, state),) = retrain(run, [Change(weights=weights)], keep=False)
    outcome = cleaning.outcomes[-1]
    for name, value in state.items():
        torch.testing.assert_close(outcome.state[name], value, rtol=1e-4, atol=1e-5)
    model, right = run.trained_model(), []
    x, y = held_out(1).tensors
    for parameters in (run.final.parameters, outcome.state):
        model.load_state_dict(parameters)
        right.append((model(x).argmax(1) == y).double())
    gain = right[1] - right[0]
    assert outcome.accuracy == pytest.approx(right[1].mean().item())
    assert outcome.gain == pytest.approx(gain.mean().item())
    assert outcome.gain_error == pytest.approx(gain.std().item() / len(gain) ** 0.5)


def test_right_labels_are_left_alone(tmp_path):
    """Nothing was made wrong here: what is touched must bring a gain on data that ranked nothing."""
    run = trained_on(digits()[1][:TRAINED], tmp_path / "run")
    query = hg.mean_loss(held_out(0))
    suspects = hg.suspects(run, hg.attribute(run, query), held_out=query)
    share = suspects.attrs[WRONG_SHARE]
    assert share["low"] == 0 and share["high"] < 0.04
    own = hg.clean(run, suspects, held_out(1)).recommended
    assert own.remedy.changed <= 0.01 * TRAINED and (own.remedy.name == AS_GIVEN or own.gain > 2 * own.gain_error)
    many = hg.clean(run, suspects, held_out(1), share=0.2).recommended
    assert many.remedy.name == AS_GIVEN or many.loss_gain > 2 * many.loss_gain_error
    shuffled = suspects.sample(frac=1, random_state=0, ignore_index=True)
    cleaning = hg.clean(run, shuffled, held_out(1), share=0.2, treatments=["remove", "relabel"])
    assert cleaning.recommended.remedy.name == AS_GIVEN
    assert "Keep the labels as given" in cleaning.sentence
    none = suspects.assign(suggested_label=suspects["given_label"])
    assert hg.clean(run, none, held_out(1)).sentence == "No label stands out as wrong, so there is nothing to clean."


def test_values_without_classes_are_compared_by_loss(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(200, 1, generator=generator)
    wrong = y[:100].clone()
    wrong[:20] += 6

    def squared(model, batch):
        return (model(batch[0]) - batch[1]).square()[:, 0]

    with seeded(0):
        model = nn.Linear(5, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    run = hg.train(model, squared, TensorDataset(x[:100], wrong), optimizer, epochs=5, batch_size=10, out=tmp_path)
    query = hg.mean_loss(TensorDataset(x[100:150], y[100:150]))
    scores = hg.attribute(run, query)
    ranked = pd.DataFrame({"sample": scores.most_harmful(100), "contribution": sorted(scores.row().tolist())})
    cleaning = hg.clean(run, ranked, TensorDataset(x[150:], y[150:]), treatments=["remove"], share=0.2)
    given, _, removed = cleaning.outcomes
    assert given.accuracy is None and removed.gain == pytest.approx(given.loss - removed.loss)
    assert cleaning.recommended is removed and "in loss" in cleaning.sentence


def test_remedies_keep_the_size_of_steps():
    remedy = Remedy(name="mine", weights={1: 0.0, 3: 0.5}, labels={2: 7})
    change = remedy.change(5)
    assert remedy.changed == 3
    assert sum(change.weights.values()) == pytest.approx(5) and change.weights[1] == 0
    assert change.weights[3] == pytest.approx(change.weights[0] / 2) and change.labels == {2: 7}
    assert Remedy(name="labels", labels={2: 7}).change(5).weights == {}


def test_only_likely_labels_are_replaced():
    over_training = torch.tensor([[0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.9, 0.05, 0.05]]).double()
    given = torch.tensor([0, 0, 0])
    signals = Signals(given=given, at_end=over_training, over_training=over_training, margin=torch.zeros(3))
    worst = pd.DataFrame({"sample": [0, 1], "given_label": [0, 0], "suggested_label": [1, 1]})
    remedy = relabelled(worst, signals)
    assert (remedy.labels, remedy.weights) == ({0: 1}, {1: 0.0})
    assert relabelled(worst, None).labels == {0: 1, 1: 1}
    assert down_weighted(worst, signals).weights == pytest.approx({0: 0.1 / 0.9, 1: 0.3 / 0.7})


@pytest.mark.parametrize("by_heart", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("share", "error"), [(0.0, 0.1), (0.3, 0.02), (0.4, 0.25), (0.8, 0.3)])
def test_the_share_of_wrong_labels_allows_for_what_the_network_gets_wrong(share, error, by_heart):
    """A network that is right on 1 - error of unseen samples, and knows some of the right training labels by heart."""
    samples, generator = 20_000, torch.Generator().manual_seed(0)

    def predicted(true, wrong):
        """One probability for each of ten classes: sure where it is right, less sure where it is not."""
        other = (true + torch.randint(1, 10, true.shape, generator=generator)) % 10
        errs = torch.rand(len(true), generator=generator) < wrong
        sure = torch.where(errs, 0.3, 0.6)[:, None] * (0.5 + torch.rand(len(true), 1, generator=generator) / 2)
        return F.one_hot(torch.where(errs, other, true), 10) * sure + (1 - sure) / 10

    true = torch.randint(10, (samples,), generator=generator)
    flips = torch.rand(samples, generator=generator) < share
    given = torch.where(flips, (true + torch.randint(1, 10, true.shape, generator=generator)) % 10, true)
    known = ~flips & (torch.rand(samples, generator=generator) < by_heart)
    over_training = torch.where(known[:, None], predicted(true, 0.0), predicted(true, error)).double()
    signals = Signals(given=given, at_end=over_training, over_training=over_training, margin=torch.zeros(samples))
    unseen = torch.randint(10, (5000,), generator=generator)
    found = wrong_share(signals, HeldOutErrors(against(predicted(unseen, error).double(), unseen), error / 9))
    assert found.low <= share <= found.high + 1e-9
    assert found.high - found.low < error + 0.08
    if by_heart == 0.0:
        assert found.low == pytest.approx(share, abs=0.06)
    if by_heart == 1.0:
        assert found.contradicted == pytest.approx(share, abs=0.04)


def test_errors_on_held_out_data_are_measured_once_and_saved(noisy, monkeypatch):
    run, _, _ = noisy
    first = held_out_errors(run, held_out(0))
    assert len(first.against) == len(held_out(0)) and 0 < first.confusion <= (first.against > 0).double().mean() < 0.3
    monkeypatch.setattr("hydragrad.cleaning.wrong_share._measured", lambda *_: pytest.fail("was measured again"))
    again = held_out_errors(run, held_out(0))
    assert torch.equal(again.against, first.against) and again.confusion == first.confusion


def test_what_cannot_be_treated_is_refused(noisy):
    run, _, suspects = noisy
    for share in (1.0, -0.1):
        with pytest.raises(QueryError, match="below 1, so that some are left"):
            hg.clean(run, suspects, held_out(1), share=share)
    with pytest.raises(QueryError, match="A treatment is one of remove, relabel, down-weight"):
        hg.clean(run, suspects, held_out(1), treatments=["reweigh"])
    with pytest.raises(QueryError, match="suggested labels are needed"):
        hg.clean(run, suspects.drop(columns="suggested_label"), held_out(1), treatments=["relabel"], share=0.1)
