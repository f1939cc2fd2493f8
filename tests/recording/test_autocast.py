"""Autocast inside the model or the loss is refused by name at the first step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

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


def test_autocast_that_is_disabled_is_recorded(tmp_path):
    assert len(record(tmp_path, lambda: InForward(enabled=False)).steps) == 9
