"""Scripts that people copy from: what is trained stays as it was, and contributions equal central differences."""

import pytest
import torch

import hydragrad as hg
from attribution import oracle
from hydragrad.randomness import preserved
from published_loops import SCRIPTS, fresh, record, retrain


def held_out_loss(script):
    script.model.eval()
    with preserved(), torch.no_grad():
        batch = torch.utils.data.default_collate([script.held_out[i] for i in range(len(script.held_out))])
        return script.loss(script.model, batch).mean().item()


@pytest.mark.parametrize("name", SCRIPTS)
def test_contributions_equal_central_differences(tmp_path, name):
    run = record(name, tmp_path / "run")
    script = fresh(name)
    length = len(script.train_set)
    ones, h = torch.ones(length, dtype=torch.float64), 1e-6
    plain = retrain(name, ones)
    for key, value in plain.model.named_parameters():
        torch.testing.assert_close(run.final.parameters[key], value.detach(), rtol=1e-10, atol=1e-12)
    direction = torch.randn(length, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    above, below = (held_out_loss(retrain(name, ones + sign * h * direction)) for sign in (1, -1))
    expected = torch.tensor([(below - above) / (2 * h)], dtype=torch.float64)
    scores = hg.attribute(run, hg.mean_loss(script.held_out), curvature="hessian", smoothing=0)
    assert expected.abs().min() > 1e-6
    assert oracle.relative(scores.values @ direction, expected) < 1e-5
