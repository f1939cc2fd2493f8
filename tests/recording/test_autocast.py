"""Autocast inside the model or the loss is refused by name at the first step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hydragrad as hg
from hydragrad.errors import Unsupported
from twins import loss, mlp, record, track


class InForward(nn.Module):
    def __init__(self, *, enabled: bool) -> None:
        super().__init__()
        self.net, self.enabled = mlp(), enabled

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.enabled):
            return self.net(x).to(x.dtype)


def after_the_model(model: Any, batch: Any) -> Tensor:
    logits = model(batch[0])
    with torch.autocast("cpu", torch.bfloat16):
        return loss(lambda x: x @ torch.eye(3, dtype=x.dtype), [logits, batch[1]])


def test_autocast_in_forward_is_refused(tmp_path):
    message = r"\w+ ran under an autocast that the model or the loss enters itself"
    with pytest.raises(Unsupported, match=message):
        record(tmp_path, lambda: InForward(enabled=True))
    assert not any(tmp_path.iterdir())
    with pytest.raises(Unsupported, match=message):
        track(lambda: InForward(enabled=True))


def test_autocast_in_the_loss_is_refused(tmp_path):
    with pytest.raises(Unsupported, match=r"ran under an autocast .* Remove torch\.autocast from forward"):
        record(tmp_path, loss=after_the_model)


def test_autocast_in_the_loss_is_refused_under_the_loops_own_too(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(4, next(model.parameters()).shape[1]), torch.zeros(4, dtype=torch.int64)
    data = torch.utils.data.TensorDataset(x, y)
    with (
        pytest.raises(Unsupported, match=r"ran under an autocast that the model or the loss enters itself"),
        hg.Recorder(tmp_path / "run", model, optimizer, after_the_model, data) as recorder,
        recorder.step(range(4)) as step,
        torch.autocast("cpu", torch.bfloat16),
    ):
        step.losses([x, y]).mean().backward()
        optimizer.step()


def test_autocast_that_is_disabled_is_recorded(tmp_path):
    assert len(record(tmp_path, lambda: InForward(enabled=False)).steps) == 9
