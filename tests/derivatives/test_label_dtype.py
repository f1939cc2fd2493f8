"""Labels of a dtype that torch's cross-entropy does not take are named, wherever the loss is called."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.derivatives import naming_label_dtype
from hydragrad.errors import LossError


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def casting(model, batch):
    return loss(model, (batch[0], batch[1].long()))


MESSAGE = r"needs labels of the dtype that it takes.*torch says.*Cast them in the loss"


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
def test_a_dtype_that_the_loss_refuses_is_named_at_the_first_step(dtype, tmp_path):
    data = TensorDataset(torch.randn(6, 4), (torch.arange(6) % 3).to(dtype))
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(LossError, match=MESSAGE) as raised:
        hg.train(model, loss, data, optimizer, epochs=1, batch_size=3, out=tmp_path / "train")
    assert isinstance(raised.value.__cause__, RuntimeError)
    for name, inside in (("own", loss), ("recorded", casting)):
        with (
            pytest.raises(LossError, match=MESSAGE),
            hg.Recorder(tmp_path / name, model, optimizer, loss, data) as recorder,
            recorder.step([0, 1, 2]),
        ):
            optimizer.zero_grad()
            inside(model, data[[0, 1, 2]]).mean().backward()
            optimizer.step()


def test_other_errors_are_left_alone():
    for error in (RuntimeError("out of memory"), IndexError("Target 7 is out of bounds."), RuntimeError()):
        with pytest.raises(type(error)) as raised, naming_label_dtype():
            raise error
        assert raised.value is error
