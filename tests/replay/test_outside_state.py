"""State in plain attributes is refused by name, where it changes what a step does; what is only kept is not."""

import random
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hydragrad as hg
from hydragrad.errors import Unsupported
from twins import loss, made, mlp, record, track, vectors


class Part(nn.Module):
    """A module that does something of its own to its input in training mode."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held, self.harmless = held, 0

    def forward(self, x: Tensor) -> Tensor:
        self.harmless += 1
        return self.changed(x) if self.training else x

    def changed(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Centre(Part):
    def changed(self, x: Tensor) -> Tensor:
        self.held = 0.9 * self.held + 0.1 * x.detach().mean()
        return x - self.held


class Counter(Part):
    def changed(self, x: Tensor) -> Tensor:
        self.held += 1
        return x / self.held


class Memory(Part):
    def changed(self, x: Tensor) -> Tensor:
        self.held = [*self.held[-2:], x.detach().mean()]
        return x + sum(self.held)


class Window(Part):
    def changed(self, x: Tensor) -> Tensor:
        self.held.append(x.detach().mean())
        return x + sum(self.held)


class Late(Part):
    """Passes a threshold when no step is verified any more."""

    def changed(self, x: Tensor) -> Tensor:
        self.held += 1
        return x * (2 if self.held > 7 else 1)


class Mode(Part):
    def changed(self, x: Tensor) -> Tensor:
        before, self.held = self.held, "second"
        return x if before == "first" else 2 * x


class TorchNoise(Part):
    def changed(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape, generator=self.held, dtype=x.dtype)


class NumpyNoise(Part):
    def changed(self, x: Tensor) -> Tensor:
        return x + self.held.normal()


class PythonNoise(Part):
    def changed(self, x: Tensor) -> Tensor:
        return x + self.held.random()


KINDS = {
    "a tensor": lambda: Centre(torch.zeros(())),
    "a number": lambda: Counter(0),
    "a list": lambda: Memory([]),
    "a window": lambda: Window(deque(maxlen=3)),
    "a late threshold": lambda: Late(0),
    "text": lambda: Mode("first"),
    "torch's generator": lambda: TorchNoise(torch.Generator().manual_seed(1)),
    "NumPy's generator": lambda: NumpyNoise(np.random.default_rng(1)),
    "Python's generator": lambda: PythonNoise(random.Random(1)),
}

MESSAGE = r"1\.held changes while it trains, changes what it computes, and is a plain attribute\. Register it"


@pytest.mark.parametrize("kind", KINDS)
def test_state_in_a_plain_attribute_is_refused_by_the_recorder(tmp_path, kind):
    with pytest.raises(Unsupported, match=MESSAGE):
        record(tmp_path, lambda: nn.Sequential(nn.Linear(4, 4), KINDS[kind](), mlp()))
    if any(tmp_path.iterdir()):  # found when the run was over: whoever opens it is told the same
        with pytest.raises(Unsupported, match=MESSAGE):
            hg.Recording(tmp_path, made(lambda: nn.Sequential(nn.Linear(4, 4), KINDS[kind](), mlp())), loss, vectors())


@pytest.mark.parametrize("kind", KINDS)
def test_state_in_a_plain_attribute_is_refused_by_the_tracker(kind):
    with pytest.raises(Unsupported, match=MESSAGE):
        track(lambda: nn.Sequential(nn.Linear(4, 4), KINDS[kind](), mlp()))


def test_a_buffer_instead_is_recorded(tmp_path):
    class Registered(Centre):
        def __init__(self) -> None:
            super().__init__(None)
            del self.held
            self.register_buffer("held", torch.zeros(()))

    assert len(record(tmp_path, lambda: nn.Sequential(nn.Linear(4, 4), Registered(), mlp())).steps) == 9


@pytest.mark.parametrize("build", [lambda: Recurrent(nn.LSTM), lambda: Recurrent(nn.GRU), lambda: ListsWeights()])
def test_parameters_in_a_plain_attribute_are_no_state_of_their_own(tmp_path, build):
    assert len(record(tmp_path, build).steps) == 9
    assert track(build).abs().max() > 0


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layer, self.last = kind(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x[None])[0][0])


class ListsWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.weights = [self.net[0].weight, self.net[2].weight.data]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
