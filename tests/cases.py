"""Small training runs to test on: models x optimizer options, in float64, smooth, a second or less each.

A case is a user's loop. `record` puts a Recorder around it; `loop` runs it with any step, so that an oracle can
train the same run in its own way.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR
from torch.utils.data import Dataset, TensorDataset, default_collate

import hydragrad as hg
from hydragrad.randomness import reseed, seeded
from hydragrad.training import Plan

with warnings.catch_warnings():
    # torch loads this at its first forward-mode derivative, with a deprecation warning about itself.
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch._decomp.decompositions_for_jvp

SAMPLES, HELD_OUT, CLASSES, BATCH_SIZE, EPOCHS, SEED = 18, 9, 3, 5, 4, 7
STEPS = EPOCHS * -(-SAMPLES // BATCH_SIZE)

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


# --- options


def plain_sgd(**options: Any) -> Callable[[nn.Module], Optimizer]:
    """One parameter group of everything that is not frozen."""
    return lambda model: SGD([p for p in model.parameters() if p.requires_grad], **{"lr": 0.2, **options})


def two_groups(model: nn.Module) -> Optimizer:
    """Biases and other vectors without decay, at a rate of their own."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return SGD(
        [
            {"params": [p for p in trained if p.dim() > 1]},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0, "lr": 0.3, "momentum": 0.5},
        ],
        lr=0.1,
        momentum=0.8,
        weight_decay=0.05,
    )


def warm(model: nn.Module) -> Optimizer:
    """An optimizer with momentum buffers from steps before the recording."""
    optimizer = plain_sgd(lr=0.1, momentum=0.9, dampening=0.3)(model)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def nothing(step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Leave the loop alone."""


def unfreeze_late(step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """The last parameter joins at step 5, the first one stays behind from step 9 on."""
    parameters = list(model.parameters())
    parameters[-1].requires_grad_(step >= 5)
    parameters[0].requires_grad_(step < 9)


def momentum_comes_and_goes(step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """No momentum at first (no buffer yet), then some, then none (the buffer waits), then some."""
    for group in optimizer.param_groups:
        group["momentum"] = 0.0 if step < 4 or 8 <= step < 11 else 0.8


def new_group_late(step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """At step 6 the last parameter moves to a group of its own, keeping its momentum buffer."""
    if step == 6:
        last = optimizer.param_groups[0]["params"].pop()
        optimizer.param_groups.append({**optimizer.param_groups[0], "params": [last], "lr": 0.05})


@dataclass(frozen=True)
class OptionsCase:
    """An optimizer, its schedule, and what else the loop does.

    Attributes:
        optimizer: Makes the optimizer.
        scheduler: Makes the schedule.
        every: When the schedule steps.
        before_step: What the loop does before every step.
        reduction: How it makes one number of the per-sample losses.
        replacement: Batches draw with replacement, so that a sample may come twice in one batch.
    """

    optimizer: Callable[[nn.Module], Optimizer]
    scheduler: Callable[[Optimizer], Any] | None = None
    every: Literal["step", "epoch"] = "epoch"
    before_step: Callable[[int, nn.Module, Optimizer], None] = nothing
    reduction: Literal["mean", "sum"] = "mean"
    replacement: bool = False


OPTIONS = {
    "plain": OptionsCase(plain_sgd()),
    "momentum": OptionsCase(plain_sgd(lr=0.1, momentum=0.9)),
    "dampening": OptionsCase(plain_sgd(momentum=0.8, dampening=0.4)),
    "nesterov": OptionsCase(plain_sgd(lr=0.1, momentum=0.7, nesterov=True)),
    "decay": OptionsCase(plain_sgd(weight_decay=0.1)),
    "maximize": OptionsCase(plain_sgd(lr=0.005, momentum=0.5, weight_decay=0.1, maximize=True)),
    "two_groups": OptionsCase(two_groups),
    "all": OptionsCase(plain_sgd(lr=0.1, momentum=0.8, weight_decay=0.05, nesterov=True)),
    "step_schedule": OptionsCase(plain_sgd(momentum=0.6), lambda o: StepLR(o, 2, gamma=0.3)),
    "cosine": OptionsCase(plain_sgd(momentum=0.9), lambda o: CosineAnnealingLR(o, STEPS), "step"),
    "plateau": OptionsCase(
        plain_sgd(momentum=0.5, lr=0.3), lambda o: ReduceLROnPlateau(o, factor=0.4, patience=0, threshold=0.5)
    ),
    "late": OptionsCase(plain_sgd(lr=0.1, momentum=0.8, weight_decay=0.1), before_step=unfreeze_late),
    "switched": OptionsCase(plain_sgd(lr=0.1, dampening=0.2, weight_decay=0.1), before_step=momentum_comes_and_goes),
    "regrouped": OptionsCase(plain_sgd(lr=0.1, momentum=0.8), before_step=new_group_late),
    "warm": OptionsCase(warm),
    "sum": OptionsCase(plain_sgd(lr=0.03, momentum=0.5), reduction="sum"),
    "replacement": OptionsCase(plain_sgd(momentum=0.5), replacement=True),
}


# --- cases


@dataclass(frozen=True)
class Case:
    """A model trained with options; `by_train` records it with hg.train instead of a loop of the user's."""

    model_name: str
    options_name: str
    by_train: bool = False

    @property
    def name(self) -> str:
        return f"{self.model_name}-{self.options_name}" + ("-train" if self.by_train else "")

    @property
    def model(self) -> ModelCase:
        return MODELS[self.model_name]

    @property
    def options(self) -> OptionsCase:
        return OPTIONS[self.options_name]

    @property
    def loss(self) -> Loss:
        return self.model.loss

    @property
    def train_set(self) -> Dataset[Any]:
        return self.model.draw(SAMPLES, 1)

    @property
    def held_out(self) -> Dataset[Any]:
        return self.model.draw(HELD_OUT, 2)

    def build(self) -> nn.Module:
        """The model before training, the same every time, in train mode."""
        with seeded(SEED):
            return self.model.build().double().train()

    def batches(self, epoch: int) -> Iterator[list[int]]:
        """The samples of every batch; the last of an epoch is smaller."""
        if self.by_train:
            yield from Plan(epochs=EPOCHS, batch_size=BATCH_SIZE, seed=SEED).batches(SAMPLES, epoch)
            return
        generator = torch.Generator().manual_seed(100 + epoch)
        if self.options.replacement:
            order = torch.randint(SAMPLES, (SAMPLES,), generator=generator)
        else:
            order = torch.randperm(SAMPLES, generator=generator)
        yield from (part.tolist() for part in order.split(BATCH_SIZE))


def collate(dataset: Dataset[Any], indices: Sequence[int]) -> Any:
    """A batch as a stock DataLoader makes it."""
    return default_collate([dataset[i] for i in indices])


def loop(
    case: Case,
    model: nn.Module,
    optimizer: Optimizer,
    one_step: Callable[[int, list[int]], float],
    scheduler: Any = None,
) -> None:
    """The user's training loop; `one_step(step, indices)` makes one optimizer step and returns its loss."""
    if scheduler is None and case.options.scheduler is not None:
        scheduler = case.options.scheduler(optimizer)
    step = 0
    for epoch in range(EPOCHS):
        total = 0.0
        for indices in case.batches(epoch):
            case.options.before_step(step, model, optimizer)
            total += one_step(step, indices) * len(indices)
            step += 1
            if scheduler is not None and case.options.every == "step":
                scheduler.step()
        if scheduler is not None and case.options.every == "epoch":
            # The rate that the plateau schedule sees is a matter of the run, not of its derivative.
            scheduler.step(total) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()


def record(case: Case, path: Path, *, checkpoint_every: int | None = None) -> hg.Recording:
    """Train and record a case."""
    model, train_set = case.build(), case.train_set
    optimizer = case.options.optimizer(model)
    if case.by_train:
        return hg.train(
            model,
            case.loss,
            train_set,
            optimizer,
            epochs=EPOCHS,
            batch_size=BATCH_SIZE,
            out=path,
            scheduler=case.options.scheduler(optimizer) if case.options.scheduler else None,
            scheduler_every=case.options.every,
            seed=SEED,
            checkpoint_every=checkpoint_every,
        )
    recorder = hg.Recorder(
        path,
        model,
        optimizer,
        case.loss,
        train_set,
        reduction=case.options.reduction,
        checkpoint_every=checkpoint_every,
        seed=SEED,
    )

    def one_step(step: int, indices: list[int]) -> float:
        with recorder.step(indices):
            optimizer.zero_grad()
            losses = case.loss(model, collate(train_set, indices))
            (losses.mean() if case.options.reduction == "mean" else losses.sum()).backward()
            optimizer.step()
        return losses.detach().mean().item()

    with recorder:
        loop(case, model, optimizer, one_step)
    return hg.Recording(path, case.build(), case.loss, train_set)


def _paired() -> list[Case]:
    """Every option set with an MLP, and every other model with two option sets in turn."""
    names = [name for name in OPTIONS if name != "plain"]
    cases = [Case("mlp", name) for name in OPTIONS]
    for number, model in enumerate(name for name in MODELS if name != "mlp"):
        cases += [Case(model, names[(3 * number + shift) % len(names)]) for shift in (0, 7)]
    return [*cases, Case("dropout", "cosine", by_train=True), Case("two_inputs", "all", by_train=True)]


CASES = _paired()
EVERY_MODEL = [Case(name, "all") for name in MODELS]
BY_NAME = {case.name: case for case in [*CASES, *EVERY_MODEL]}


def reseed_for_query() -> None:
    """Queries in training mode draw from this seed, the batch's first sample being number 0."""
    reseed(0)
