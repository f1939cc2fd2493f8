"""Models are copied whatever they hold; the copy computes the same and shares nothing."""

import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from hydragrad.derivatives import copy_of
from hydragrad.errors import Unsupported
from twins import answers, assert_same, made, mlp, record, track


class Keeps(nn.Module):
    """Keeps what it computed, in attributes and containers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.features = torch.tanh(self.first(x))
        self.seen = [*self.seen[-2:], self.features]
        return self.last(self.features)


class Twin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def pruned() -> nn.Module:
    model = mlp()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


def old(norm: Any) -> Any:
    return lambda: nn.Sequential(norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


def patched() -> nn.Module:
    """A forward that speaks of its module by a closure."""
    model = mlp()
    layer = model[0]
    layer.forward = lambda x: nn.functional.linear(x, layer.weight, layer.bias) * 2
    return model


def hooked() -> nn.Module:
    """A hook that speaks of another module by a closure."""
    model = mlp()
    last = model[2]
    model[1].register_forward_hook(lambda _module, _inputs, output: output * last.weight.sum())
    return model


KINDS = {
    "kept activations": Keeps,
    "pruned": pruned,
    "old weight norm": old(weight_norm),
    "old spectral norm": old(spectral_norm),
    "a forward of its own": patched,
    "a hook": hooked,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_model_is_copied_and_the_copy_shares_nothing(kind):
    model = made(KINDS[kind])
    x = torch.randn(2, 4, dtype=torch.float64)
    model(x).sum().backward()
    copied = copy_of(model).eval()
    expected = model.eval()(x)
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert torch.equal(model(x), expected)
    assert not torch.allclose(copied(x), expected)


def test_kept_tensors_are_copied_with_their_values_without_their_graph():
    model = made(Keeps)
    model(torch.ones(2, 4, dtype=torch.float64))
    copied = copy_of(model)
    assert torch.equal(copied.features, model.features) and copied.features.grad_fn is None
    assert copied.seen[-1] is copied.features is not model.features


def test_what_a_transform_left_behind_is_copied():
    model = made(Keeps)
    torch.func.jvp(
        lambda x: model(x), (torch.ones(2, 4, dtype=torch.float64),), (torch.ones(2, 4, dtype=torch.float64),)
    )
    assert copy_of(model).features.shape == (2, 5)


@pytest.mark.parametrize(
    ("holding", "named"),
    [(lambda m: m[0], r"the attribute 0\.lock of Linear"), (lambda m: m, r"the attribute lock of")],
)
def test_what_can_not_be_copied_is_named(holding, named):
    model = mlp()
    holding(model).lock = threading.Lock()
    with pytest.raises(Unsupported, match=rf"{named}.* can't be copied \(.*\)\. Delete that attribute"):
        copy_of(model)


def test_a_run_of_a_model_that_keeps_activations_is_that_of_its_twin(tmp_path):
    assert_same(answers(record(tmp_path / "a", Keeps)), answers(record(tmp_path / "b", Twin)))
    torch.testing.assert_close(track(Keeps), track(Twin))


def test_a_run_with_old_spectral_norm_is_differentiated_by_every_route_alike(tmp_path):
    run = record(tmp_path, old(spectral_norm))
    ours = answers(run, leave_out=["hessian", "counterfactual"])  # its power iteration moves buffers
    assert_same(ours, dict.fromkeys(ours, track(old(spectral_norm))))


def test_a_pruned_run_is_that_of_a_model_with_a_mask(tmp_path):
    class Masked(nn.Linear):
        def __init__(self, mask: Tensor) -> None:
            super().__init__(4, 5)
            self.mask = mask

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight * self.mask, self.bias)

    mask = made(pruned)[0].weight_mask.detach().clone()
    assert 0 < mask.sum() < mask.numel()
    assert_same(
        answers(record(tmp_path / "a", pruned)),
        answers(record(tmp_path / "b", lambda: nn.Sequential(Masked(mask), nn.Tanh(), nn.Linear(5, 3)))),
    )


def test_a_run_with_a_patched_forward_is_that_of_a_module(tmp_path):
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    twin = answers(record(tmp_path / "b", lambda: nn.Sequential(Doubled(4, 5), nn.Tanh(), nn.Linear(5, 3))))
    assert_same(answers(record(tmp_path / "a", patched)), twin)


class Lists(nn.Module):
    """Speaks of itself by functions in a list and a dict, and by a weak reference."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.stages = [lambda x: torch.tanh(self.first(x)), {"last": lambda x: self.last(x)}]
        self.owner = weakref.ref(self)

    def forward(self, x: Tensor) -> Tensor:
        assert self.owner() is self
        return self.stages[1]["last"](self.stages[0](x))


def test_functions_in_containers_speak_of_the_copy(tmp_path):
    copied = copy_of(Lists())
    assert copied.owner() is copied
    assert_same(answers(record(tmp_path / "a", Lists)), answers(record(tmp_path / "b", Twin)))
