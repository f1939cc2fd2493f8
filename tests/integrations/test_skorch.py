"""A skorch net with one more callback: it trains what it always trains, and contributions are its derivatives."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import ReplayMismatch, Unsupported
from integrations.differences import along_two_directions

pytest.importorskip("skorch", reason="the skorch extra is not installed")

from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import GradientNormClipping, LRScheduler

from hydragrad.integrations.skorch import RecordingCallback, net_losses

SAMPLES = 20


class Module(nn.Module):
    def __init__(self, outputs=3, probabilities=False, dropout=0.0):
        super().__init__()
        torch.manual_seed(1)
        ends = [nn.Softmax(-1)] if probabilities else []
        self.layers = nn.Sequential(
            nn.Linear(4, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, outputs), *ends
        ).double()

    def forward(self, x):
        return self.layers(x)


def samples(count=SAMPLES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return x.numpy(), torch.randint(3, (count,), generator=generator).numpy()


def settings(*callbacks, **options):
    shuffled = {"iterator_train__shuffle": True, "iterator_train__generator": torch.Generator().manual_seed(3)}
    chosen = {"max_epochs": 3, "batch_size": 5, "lr": 0.05, "optimizer": torch.optim.Adam, "verbose": 0}
    clipping = ("clipping", GradientNormClipping(0.4))
    return shuffled | chosen | {"callbacks": [clipping, *callbacks]} | options


def classifier(*callbacks, **options):
    return NeuralNetClassifier(Module, criterion=nn.CrossEntropyLoss, **settings(*callbacks, **options))


def test_a_recorded_net_trains_what_it_trains_unrecorded(tmp_path):
    plain = classifier().fit(*samples())
    recording = RecordingCallback(tmp_path / "run", seed=5)
    net = classifier(recording).fit(*samples())
    for one, other in zip(plain.module_.parameters(), net.module_.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    run = recording.recording(net)
    assert run.completed and len(run.steps) == 12  # a fifth of the samples is held out
    assert {step.clipped for step in run.steps} == {True, False}
    assert not {"get_iterator", "train_step", "get_loss"} & set(vars(net))


def test_contributions_are_derivatives_of_real_retrainings(tmp_path):
    recording = RecordingCallback(tmp_path / "run")
    net = classifier(recording, train_split=None).fit(*samples())
    run, held_out = recording.recording(net), samples(6, seed=9)
    batches = [step.indices for step in run.steps]

    def retrained(weights):
        class Weighted(NeuralNetClassifier):
            number = 0

            def get_loss(self, y_pred, y_true, X=None, training=False):
                losses = nn.functional.cross_entropy(y_pred, y_true, reduction="none")
                self.number += 1
                return (losses * weights[batches[self.number - 1]]).mean()

        again = Weighted(Module, criterion=nn.CrossEntropyLoss, **settings(train_split=None)).fit(*samples())
        x, y = map(torch.from_numpy, held_out)
        return nn.functional.cross_entropy(again.module_(x), y).item()

    directions, expected = along_two_directions(retrained, SAMPLES)
    query = hg.mean_loss(TensorDataset(*map(torch.from_numpy, held_out)))
    scores = hg.attribute(run, query, curvature="hessian", smoothing=0)
    torch.testing.assert_close(scores.values[0] @ directions.T, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["probabilities", "regression", "sum"])
def test_the_loss_is_the_nets_own(kind, tmp_path):
    recording = RecordingCallback(tmp_path / "run")
    schedule = ("schedule", LRScheduler("StepLR", step_size=1, gamma=0.5))
    x, y = samples()
    options = settings(recording, schedule, module__dropout=0.2, train_split=None)
    if kind == "probabilities":
        net = NeuralNetClassifier(Module, module__probabilities=True, **options)
    elif kind == "sum":
        net = NeuralNetClassifier(Module, criterion=nn.CrossEntropyLoss, criterion__reduction="sum", **options)
    else:
        net, y = NeuralNetRegressor(Module, module__outputs=1, **options), x[:, :1] ** 2
    net.fit(x, y)
    run = recording.recording(net)
    assert len({step.rate for step in run.steps}) == 3
    held_out = TensorDataset(torch.from_numpy(x[:5]), torch.from_numpy(y[:5]))
    scores = hg.attribute(run, hg.mean_loss(held_out), curvature="hessian")
    assert scores.evidence.replay_exact and scores.values.abs().min() > 0


def test_another_loss_than_the_mean_of_the_recorded_ones_is_refused(tmp_path):
    class Penalised(NeuralNetClassifier):
        def get_loss(self, *args, **kwargs):
            return super().get_loss(*args, **kwargs) + 0.1 * self.module_.layers[0].weight.square().sum()

    recording = RecordingCallback(tmp_path / "run", loss=net_losses(classifier().initialize()))
    net = Penalised(Module, criterion=nn.CrossEntropyLoss, **settings(recording))
    with pytest.raises(ReplayMismatch, match="can't be replayed from what the recorder sees"):
        net.fit(*samples())


def test_a_criterion_without_a_reduction_needs_a_loss(tmp_path):
    class Own(nn.Module):
        def forward(self, logits, y):
            return nn.functional.cross_entropy(logits, y)

    net = NeuralNetClassifier(Module, criterion=Own, **settings(RecordingCallback(tmp_path / "run")))
    with pytest.raises(Unsupported, match="per-sample loss must be given for a Own"):
        net.fit(*samples())
