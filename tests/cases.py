"""Small training runs to test on: models x optimizer options, in float64, smooth, a second or less each.

A case is a user's loop. `record` puts a Recorder around it; `loop` runs it with any step, so that an oracle can
train the same run in its own way.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR
from torch.utils.data import Dataset, default_collate

import hydragrad as hg
from case_models import MODELS, Loss, ModelCase
from hydragrad.randomness import reseed, seeded
from hydragrad.torch_release import MUON
from hydragrad.training import Plan
from own_optimizers import Belief, Scaled

SAMPLES, HELD_OUT, BATCH_SIZE, EPOCHS, SEED = 18, 9, 5, 4, 7
STEPS = EPOCHS * -(-SAMPLES // BATCH_SIZE)


# --- options


def one_group(kind: type[Optimizer], **options: Any) -> Callable[[nn.Module], Optimizer]:
    """One parameter group of everything that is not frozen."""
    return lambda model: kind([p for p in model.parameters() if p.requires_grad], **options)


def plain_sgd(**options: Any) -> Callable[[nn.Module], Optimizer]:
    """SGD with one parameter group."""
    return one_group(SGD, **{"lr": 0.2, **options})


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


def two_decay_groups(model: nn.Module) -> Optimizer:
    """AdamW with decay on matrices only, as language models are trained; other decay rates for vectors."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0, "lr": 0.03, "betas": (0.7, 0.95)},
    ]
    return AdamW(groups, lr=0.02, betas=(0.9, 0.99))


def warm(model: nn.Module) -> Optimizer:
    """SGD with momentum buffers from steps before the recording."""
    return warmed(plain_sgd(lr=0.1, momentum=0.9, dampening=0.3)(model), model)


def warm_adam(model: nn.Module) -> Optimizer:
    """Adam with moments from steps before the recording."""
    return warmed(one_group(Adam, lr=0.02, betas=(0.8, 0.9), weight_decay=0.05)(model), model)


def warmed(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """An optimizer that has made two steps."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def rmsprop_groups(model: nn.Module) -> Optimizer:
    """RMSprop with every kind of state in one group, and one kind in the other."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "centered": True, "weight_decay": 0.1},
        {"params": [p for p in trained if p.dim() <= 1], "momentum": 0.5},
    ]
    return RMSprop(groups, lr=0.005, alpha=0.9, eps=1e-3)


def matrices_only(model: nn.Module) -> Optimizer:
    """Muon, which takes nothing else, with a group whose rate follows the shape in the other way."""
    if MUON is None:
        pytest.skip("torch has no Muon before 2.9")
    trained = [p for p in model.parameters() if p.requires_grad and p.dim() == 2]
    groups = [{"params": trained[:1]}, {"params": trained[1:], "adjust_lr_fn": "match_rms_adamw", "nesterov": False}]
    return MUON(groups, lr=0.03, weight_decay=0.1, momentum=0.8)


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
        closed_form: Whether the run without curvature is a sum over its steps.
    """

    optimizer: Callable[[nn.Module], Optimizer]
    scheduler: Callable[[Optimizer], Any] | None = None
    every: Literal["step", "epoch"] = "epoch"
    before_step: Callable[[int, nn.Module, Optimizer], None] = nothing
    reduction: Literal["mean", "sum"] = "mean"
    replacement: bool = False
    closed_form: bool = True

    @property
    def family(self) -> str:
        return "sgd" if self.closed_form else "adam"


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
ADAPTIVE = {
    "adam": OptionsCase(one_group(Adam, lr=0.02, weight_decay=0.1), closed_form=False),
    "adamw": OptionsCase(one_group(AdamW, lr=0.02, weight_decay=0.1), closed_form=False),
    "amsgrad": OptionsCase(one_group(AdamW, lr=0.05, betas=(0.8, 0.6), amsgrad=True), closed_form=False),
    "adam_maximize": OptionsCase(
        one_group(Adam, lr=0.002, betas=(0.5, 0.9), weight_decay=0.05, maximize=True), closed_form=False
    ),
    "decay_groups": OptionsCase(
        two_decay_groups, lambda o: CosineAnnealingLR(o, STEPS), every="step", closed_form=False
    ),
    "adam_late": OptionsCase(one_group(AdamW, lr=0.02, betas=(0.8, 0.9)), before_step=unfreeze_late, closed_form=False),
    "adam_warm": OptionsCase(warm_adam, closed_form=False),
    "adam_tensor_rate": OptionsCase(one_group(AdamW, lr=torch.tensor(0.02)), closed_form=False),
    "adam_foreach": OptionsCase(one_group(Adam, lr=0.02, foreach=True), closed_form=False),
    "adam_fused": OptionsCase(one_group(AdamW, lr=0.02, fused=True), reduction="sum", closed_form=False),
    "nadam": OptionsCase(
        one_group(NAdam, lr=0.02, weight_decay=0.1), lambda o: StepLR(o, 2, gamma=0.3), closed_form=False
    ),
    "nadam_decoupled": OptionsCase(
        one_group(NAdam, lr=0.02, betas=(0.7, 0.9), weight_decay=0.1, decoupled_weight_decay=True, momentum_decay=0.1),
        before_step=unfreeze_late,
        closed_form=False,
    ),
    "radam": OptionsCase(one_group(RAdam, lr=0.02, weight_decay=0.1), closed_form=False),  # rectified from step 6 on
    "adamax": OptionsCase(one_group(Adamax, lr=0.02, weight_decay=0.1), closed_form=False),
    "rmsprop": OptionsCase(one_group(RMSprop, lr=0.005, alpha=0.9, weight_decay=0.1), closed_form=False),
    "rmsprop_groups": OptionsCase(rmsprop_groups, closed_form=False),
    "adagrad": OptionsCase(
        one_group(Adagrad, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.1, weight_decay=0.1),
        before_step=new_group_late,
        closed_form=False,
    ),
    "adadelta": OptionsCase(one_group(Adadelta, lr=0.5, eps=1e-4, weight_decay=0.1), closed_form=False),
    "adafactor": OptionsCase(one_group(Adafactor, lr=0.1, weight_decay=0.1), closed_form=False),
    "own": OptionsCase(one_group(Belief, lr=0.03, weight_decay=0.1), before_step=unfreeze_late, closed_form=False),
    "own_rows": OptionsCase(one_group(Scaled, lr=0.02, momentum=0.8), closed_form=False),
    "muon": OptionsCase(matrices_only, lambda o: StepLR(o, 2, gamma=0.5), closed_form=False),
}
OTHERS_OF_CLOSED_FORM = {
    "asgd": OptionsCase(
        one_group(ASGD, lr=0.1, lambd=0.1, weight_decay=0.1),
        lambda o: StepLR(o, 2, gamma=0.3),
        before_step=unfreeze_late,
    ),
}
OPTIONS_OF_CLOSED_FORM = tuple(OPTIONS)
OPTIONS |= ADAPTIVE | OTHERS_OF_CLOSED_FORM


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
    names = [name for name in OPTIONS_OF_CLOSED_FORM if name != "plain"]
    cases = [Case("mlp", name) for name in OPTIONS_OF_CLOSED_FORM]
    for number, model in enumerate(name for name in MODELS if name != "mlp"):
        cases += [Case(model, names[(3 * number + shift) % len(names)]) for shift in (0, 7)]
    cases += [Case("mlp", name) for name in OTHERS_OF_CLOSED_FORM]
    return [*cases, Case("dropout", "cosine", by_train=True), Case("two_inputs", "all", by_train=True)]


def _adaptive() -> list[Case]:
    """Every option set with an MLP, and models with traits of their own in turn."""
    others = [
        "batch_norm",
        "transformer",
        "lookup",
        "tied",
        "dropout",
        "convolution",
        "frozen_statistics",
        "partly_frozen",
    ]
    cases = [Case("mlp", name) for name in ADAPTIVE]
    return cases + [Case(model, name) for model, name in zip(others, ADAPTIVE, strict=False)]


CASES = _paired()
ADAPTIVE_CASES = [*_adaptive(), Case("dropout", "decay_groups", by_train=True)]
EVERY_MODEL = [Case(name, "all") for name in MODELS]
BY_NAME = {case.name: case for case in [*CASES, *ADAPTIVE_CASES, *EVERY_MODEL]}


def reseed_for_query() -> None:
    """Queries in training mode draw from this seed, the batch's first sample being number 0."""
    reseed(0)
