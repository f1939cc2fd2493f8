"""Models whose gradient is not what forward mode, hooks or rules of layers say it is, or that torch lacks rules for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, TensorDataset, default_collate

import twins
from hydragrad.randomness import reseed_everything, stream_seed


class TwoLayers(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, twins.CLASSES)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, torch.tanh(self.first(x))))


class Shrink(torch.autograd.Function):
    """Values as they are, gradients shrunk; a forward-mode rule that does not shrink."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 0.3 * gradient

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.clone()


class Swish(torch.autograd.Function):
    """Without a forward-mode rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return gradient * gate * (1 + x * (1 - gate))


def shrunk_by_a_hook(model: nn.Module, h: Tensor) -> Tensor:
    if model.training:
        h.register_hook(lambda gradient: 0.1 * gradient)
    return h


def shrunk_by_a_function(model: nn.Module, h: Tensor) -> Tensor:
    return Shrink.apply(h) if model.training else h


def mixed_sometimes(model: nn.Module, h: Tensor) -> Tensor:
    """Manifold mixup of a third of the batches."""
    if model.training and torch.rand(()) < 0.35:
        h = 0.7 * h + 0.3 * h[torch.randperm(len(h))]
    return h


def with_its_neighbour(model: nn.Module, h: Tensor) -> Tensor:
    return h + 0.5 * h.roll(1, 0) if model.training else h


def shrunk_and_coupled(model: nn.Module, h: Tensor) -> Tensor:
    return with_its_neighbour(model, shrunk_by_a_hook(model, h))


def checkpointed(model: nn.Module, h: Tensor) -> Tensor:
    return checkpoint(lambda x: torch.sin(3 * x), h, use_reentrant=False)


def checkpointed_reentrant(model: nn.Module, h: Tensor) -> Tensor:
    return checkpoint(lambda x: torch.sin(3 * x), h, use_reentrant=True)


def sine(model: nn.Module, h: Tensor) -> Tensor:
    return torch.sin(3 * h)


def own_swish(model: nn.Module, h: Tensor) -> Tensor:
    return Swish.apply(h)


def swish(model: nn.Module, h: Tensor) -> Tensor:
    return h * h.sigmoid()


class Bag(nn.Module):
    """A mean of looked-up rows, without the padding."""

    def __init__(self, bag: bool) -> None:
        super().__init__()
        self.rows = nn.EmbeddingBag(6, 5, padding_idx=0) if bag else nn.Embedding(6, 5, padding_idx=0)
        self.last = nn.Linear(5, twins.CLASSES)
        self.bag = bag

    def forward(self, x: Tensor) -> Tensor:
        if self.bag:
            return self.last(torch.tanh(self.rows(x)))
        present = (x != 0).unsqueeze(-1).double()
        return self.last(torch.tanh((self.rows(x) * present).sum(1) / present.sum(1).clamp_min(1)))


def tokens(length: int = twins.SAMPLES, seed: int = 1) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randint(6, (length, 5), generator=generator), torch.randint(twins.CLASSES, (length,), generator=generator)
    )


def with_norm(norm: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), norm(), nn.Linear(6, twins.CLASSES))


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, twins.CLASSES))


def trained(
    build: Callable[[], nn.Module],
    weights: Tensor,
    steps: list[list[int]],
    data: Dataset[Any] | None = None,
    loss: Any = twins.loss,
) -> nn.Module:
    """Train as `twins.record` does, with weights of the samples' losses, in plain torch."""
    train_set, model = twins.vectors() if data is None else data, twins.made(build)
    optimizer = twins.sgd(model)
    for number, indices in enumerate(steps):
        optimizer.zero_grad()
        reseed_everything(stream_seed(0, number))
        losses = loss(model, default_collate([train_set[i] for i in indices]))
        (losses * weights[indices]).mean().backward()
        optimizer.step()
    return model.eval()


def truth(
    build: Callable[[], nn.Module],
    steps: list[list[int]],
    data: Dataset[Any] | None = None,
    queried: Dataset[Any] | None = None,
    loss: Any = twins.loss,
    h: float = 1e-5,
) -> Tensor:
    """Contributions to the mean loss of held-out data by central differences of whole trainings, (samples,)."""
    held_out = twins.held_out() if queried is None else queried
    batch = default_collate([held_out[i] for i in range(len(held_out))])  # type: ignore[arg-type]
    rows = []
    for sample in range(twins.SAMPLES):
        values = []
        for change in (h, -h):
            weights = torch.ones(twins.SAMPLES, dtype=torch.float64)
            weights[sample] += change
            values.append(loss(trained(build, weights, steps, data, loss), batch).mean().detach().item())
        rows.append(-(values[0] - values[1]) / (2 * h))
    return torch.tensor(rows, dtype=torch.float64)
