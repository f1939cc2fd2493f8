"""Models with their data and losses that the cases train, in float64 and smooth."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

CLASSES = 3

Loss = Callable[[Any, Any], Tensor]


# --- losses: per-sample, as a function of the model's output and as the user writes them


def cross_entropy(output: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(output, batch[1], reduction="none")


def squared_error(output: Tensor, batch: Any) -> Tensor:
    return (output - batch[1]).square().mean(1)


def cross_entropy_loss(model: Any, batch: Any) -> Tensor:
    return cross_entropy(model(batch[0]), batch)


def squared_error_loss(model: Any, batch: Any) -> Tensor:
    return squared_error(model(batch[0]), batch)


def dict_output_loss(output: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(output, batch["label"], reduction="none")


def dict_loss(model: Any, batch: Any) -> Tensor:
    return dict_output_loss(model(batch["left"], right=batch["right"]), batch)


def two_calls_loss(model: Any, batch: Any) -> Tensor:
    """Calls the model twice, so that running statistics move twice a step."""
    return F.cross_entropy(model(batch[0]) - 0.5 * model(batch[0].flip(1)), batch[1], reduction="none")


def penalised_loss(model: Any, batch: Any) -> Tensor:
    """A penalty on the parameters inside the loss."""
    return cross_entropy_loss(model, batch) + 0.05 * sum(p.square().sum() for p in model.parameters())


# --- data


class Pairs(Dataset[Any]):
    """Items that are dicts with two inputs and a label."""

    def __init__(self, length: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._left = torch.randn(length, 3, generator=generator, dtype=torch.float64)
        self._right = torch.randn(length, 2, generator=generator, dtype=torch.float64)
        self._labels = torch.randint(CLASSES, (length,), generator=generator)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {"left": self._left[index], "right": self._right[index], "label": self._labels[index]}


def vectors(*shape: int, targets: int = 0) -> Callable[[int, int], Dataset[Any]]:
    """Gaussian inputs of a shape; integer labels, or vectors of targets."""

    def draw(length: int, seed: int) -> Dataset[Any]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(length, *shape, generator=generator, dtype=torch.float64)
        if targets:
            return TensorDataset(x, torch.randn(length, targets, generator=generator, dtype=torch.float64))
        return TensorDataset(x, torch.randint(CLASSES, (length,), generator=generator))

    return draw


def sequences(vocabulary: int, length: int, classes: int) -> Callable[[int, int], Dataset[Any]]:
    """Integer sequences with integer labels."""

    def draw(count: int, seed: int) -> Dataset[Any]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(vocabulary, (count, length), generator=generator)
        return TensorDataset(x, torch.randint(classes, (count,), generator=generator))

    return draw


# --- models


class Tied(nn.Module):
    """One weight as embedding and as output layer."""

    def __init__(self, padding_idx: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4, padding_idx=padding_idx)
        self.mix = nn.Linear(4, 4)
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embedding(x).mean(1))))


class TiedPadded(Tied):
    """The padding row learns as an output, and not as an embedding."""

    def __init__(self) -> None:
        super().__init__(padding_idx=2)


class Lookup(nn.Module):
    """An embedding with a padding index, LayerNorm on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4, padding_idx=2)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.embedding(x)).sigmoid().sum(1))


class Transformer(nn.Module):
    """A small encoder layer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.2, activation="gelu", batch_first=True)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(x).mean(1))


class FrozenEncoder(Transformer):
    """The encoder stays in eval mode while the run trains it, as in fine-tuning without dropout."""

    def train(self, mode: bool = True) -> "FrozenEncoder":
        super().train(mode)
        self.encoder.eval()
        return self


class Stopped(nn.Module):
    """Keeps parts of its computation out of the gradient: a block without gradients, and a detached gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        with torch.no_grad():
            centre = 0.5 * torch.tanh(self.first.weight).sum(1)
        return self.out(hidden * hidden.detach().cos() - centre)


class Summed(nn.Module):
    """Sums over positions, and reads out."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.sum(1))


class TwoInputs(nn.Module):
    """Two inputs, one of them by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(3, 4), nn.Linear(2, 4, bias=False), nn.Linear(4, CLASSES)

    def forward(self, left: Tensor, *, right: Tensor) -> Tensor:
        return self.out(torch.tanh(self.left(left) + self.right(right)))


class Direct(nn.Module):
    """A parameter of the model's own, used twice, for which no layer has a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4) / 2)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(torch.tanh(x @ self.matrix) @ self.matrix.T))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def in_place() -> nn.Module:
    """Layers over positions return views, which hooks lose sight of when they are changed in place."""
    return nn.Sequential(nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 4), nn.ELU(inplace=True), Summed())


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(4, 4, 2, groups=2),
        nn.Softplus(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, eps=0.1), nn.Tanh(), nn.Linear(5, CLASSES))


def batch_norm_images() -> nn.Module:
    """BatchNorm without an affine map and with momentum None (a plain average), and one without statistics."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3, affine=False, momentum=None),
        nn.GELU(),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


class FrozenStatistics(nn.Module):
    """One BatchNorm layer in eval mode from the start, one that trains behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.moving, self.out = nn.BatchNorm1d(5, momentum=0.3), nn.Linear(5, CLASSES)
        self.frozen.running_mean += 0.3
        self.frozen.running_var *= 1.7

    def train(self, mode: bool = True) -> "FrozenStatistics":
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.moving(torch.tanh(self.frozen(self.first(x)))))


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, CLASSES))


def partly_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    model[0].requires_grad_(False)
    return model


@dataclass(frozen=True)
class ModelCase:
    """A model with its data and loss.

    Attributes:
        build: Makes the model; weights are drawn from the global generator.
        draw: `draw(length, seed)` makes a data set.
        loss: The per-sample loss.
        output_loss: The same as a function of the model's output, where the model is called once.
        classes: Number of labels, where the loss is plain cross-entropy.
        hooks: Whether the dot products can be taken in the replay's backward pass.
        curvature: Whether the trained gradient has a symmetric derivative: not where it was stopped on its way.
    """

    build: Callable[[], nn.Module]
    draw: Callable[[int, int], Dataset[Any]]
    loss: Loss = cross_entropy_loss
    output_loss: Loss | None = cross_entropy
    classes: int = CLASSES
    hooks: bool = True
    curvature: bool = True


MODELS = {
    "linear": ModelCase(lambda: nn.Linear(4, CLASSES), vectors(4)),
    "mlp": ModelCase(mlp, vectors(4)),
    "regression": ModelCase(mlp, vectors(4, targets=CLASSES), squared_error_loss, squared_error, classes=0),
    "convolution": ModelCase(convolution, vectors(1, 7, 7)),
    "batch_norm": ModelCase(batch_norm, vectors(4), hooks=False),
    "batch_norm_images": ModelCase(batch_norm_images, vectors(1, 6, 6), hooks=False),
    "frozen_statistics": ModelCase(FrozenStatistics, vectors(4), hooks=False),
    "two_calls": ModelCase(batch_norm, vectors(4), two_calls_loss, None, classes=0, hooks=False),
    "dropout": ModelCase(dropout, vectors(4)),
    "tied": ModelCase(Tied, sequences(6, 3, 6), classes=6),
    "tied_padded": ModelCase(TiedPadded, sequences(6, 3, 6), classes=6, curvature=False),
    "lookup": ModelCase(Lookup, sequences(6, 3, CLASSES)),
    "transformer": ModelCase(Transformer, vectors(3, 4), hooks=False),
    "frozen_encoder": ModelCase(FrozenEncoder, vectors(3, 4), hooks=False),
    "two_inputs": ModelCase(TwoInputs, Pairs, dict_loss, dict_output_loss),
    "stopped": ModelCase(Stopped, vectors(4), curvature=False),
    "in_place": ModelCase(in_place, vectors(2, 4), hooks=False),
    "direct": ModelCase(Direct, vectors(4), hooks=False),
    "partly_frozen": ModelCase(partly_frozen, vectors(4)),
    "penalised": ModelCase(mlp, vectors(4), penalised_loss, None, classes=0, hooks=False),
}
