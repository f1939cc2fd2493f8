"""Parts that are pixels, runs under autocast, and attributions that were interrupted."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from attribution import oracle
from hydragrad.replay.trajectory import Trajectory

PICTURES = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASKS = (PICTURES.roll(1, -1) + 0.3 * PICTURES > 0).double()
KNOWN = torch.rand(8, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.8
"""Pixels that have a label."""


class Segmenter(nn.Module):
    """A convolutional network whose BatchNorm couples all pixels of a batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 1, 1))
        self.double()

    def forward(self, pictures):
        return self.layers(pictures)


def pixel_losses(model, batch):
    pictures, masks, known = batch
    losses = F.binary_cross_entropy_with_logits(model(pictures), masks, reduction="none")
    return losses.flatten(1), known.flatten(1)


LOSS = hg.loss_of_parts(pixel_losses)
TRAIN = TensorDataset(PICTURES, MASKS, KNOWN)
HELD_OUT = TensorDataset(PICTURES.flip(-1), MASKS.flip(-1), KNOWN)


def trained(path, **options):
    model = Segmenter()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    return hg.train(model, LOSS, TRAIN, optimizer, epochs=2, batch_size=4, out=path, **options)


def retrained(run, weights):
    """The mean loss of held-out pictures, after training with a weight on every pixel's loss, (samples, pixels)."""
    model = Segmenter()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    for record in run.steps:
        losses, known = pixel_losses(model, TRAIN[record.indices])
        optimizer.zero_grad()
        ((losses * weights[record.indices] * known).sum(1) / known.sum(1)).mean().backward()
        optimizer.step()
    losses, known = pixel_losses(model.eval(), HELD_OUT[:])
    return float(((losses * known).sum(1) / known.sum(1)).mean().detach())


def test_pixels_coupled_by_batch_norm_are_derivatives_of_retraining(tmp_path):
    run = trained(tmp_path / "run")
    query = hg.mean_loss(HELD_OUT)
    scores = hg.attribute(run, query, curvature="hessian", parts=True)
    ones = torch.ones(8, 16, dtype=torch.float64)
    assert retrained(run, ones) == pytest.approx(float(scores.query_values[0]), rel=1e-12)
    single, generator = KNOWN.flatten(1).nonzero(), torch.Generator().manual_seed(3)
    directions = torch.randn(4, 8, 16, generator=generator, dtype=torch.float64)
    directions[:2] = 0
    directions[0][tuple(single[0])] = directions[1][tuple(single[-1])] = 1
    expected = torch.tensor(
        [(retrained(run, ones - 1e-5 * d) - retrained(run, ones + 1e-5 * d)) / 2e-5 for d in directions]
    ).double()
    given = (scores.part_contributions[0] * directions).nansum((1, 2))
    assert torch.equal(scores.part_contributions[0].isnan(), ~KNOWN.flatten(1))
    assert expected.abs().min() > 1e-6, "the perturbation changed nothing"
    assert oracle.relative(given, expected) < 1e-6


@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_parts_of_a_run_under_autocast_add_up(curvature, tmp_path):
    run = trained(tmp_path / "run", autocast=torch.bfloat16)
    scores = hg.attribute(run, hg.mean_loss(HELD_OUT), curvature=curvature, parts=True)
    assert scores.values.abs().min() > 0
    assert torch.allclose(scores.part_contributions.nansum(-1), scores.values, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("curvature", ["none", "ggn"])
def test_an_interrupted_attribution_of_parts_is_resumed_to_the_same_numbers(curvature, tmp_path, monkeypatch):
    run = trained(tmp_path / "run", checkpoint_every=1)
    query = hg.mean_loss(HELD_OUT)
    whole = hg.attribute(run, query, curvature=curvature, parts=True)
    advance, calls = Trajectory.advance, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == limit:
            raise KeyboardInterrupt
        return advance(*args, **kwargs)

    monkeypatch.setattr(Trajectory, "advance", interrupted)
    limit = 0
    hg.attribute(run, query, curvature=curvature, parts=True)
    every, limit = len(calls), len(calls)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, query, curvature=curvature, parts=True)
    limit = 0
    calls.clear()
    resumed = hg.attribute(run, query, curvature=curvature, parts=True)
    assert 0 < len(calls) < every
    assert torch.equal(resumed.part_contributions.nan_to_num(9), whole.part_contributions.nan_to_num(9))
    assert torch.equal(resumed.values, whole.values)
