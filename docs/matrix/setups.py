"""What the support matrix is made of: every optimizer with a rule, and what a training loop may have."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.checking import Checked
from hydragrad.steps import RULES

RATE = 0.02
SAMPLES, BATCH_SIZE, CLASSES = 18, 5, 3
OPTIMIZERS = {kind.__name__: kind for kind in RULES if kind.__module__.startswith("torch.")}


def mlp(*between: nn.Module) -> nn.Module:
    """A small network, the same every time."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 5), *between, nn.Tanh(), nn.Linear(5, CLASSES))


def one_group(kind: type[Optimizer], model: nn.Module) -> Optimizer:
    """An optimizer of all parameters; of the matrices where it takes no others (Muon), the rest frozen."""
    try:
        return kind(model.parameters(), lr=RATE)  # type: ignore[call-arg]
    except ValueError:
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.dim() == 2)
        return kind([p for p in model.parameters() if p.requires_grad], lr=RATE)  # type: ignore[call-arg]


def two_groups(kind: type[Optimizer], model: nn.Module) -> Optimizer:
    """The last layer at a rate of its own."""
    known = one_group(kind, model)
    parameters = known.param_groups[0]["params"]
    half = len(parameters) // 2
    groups = [{"params": parameters[:half]}, {"params": parameters[half:], "lr": RATE / 3}]
    return kind(groups, lr=RATE)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Feature:
    """What a loop has, next to a plain one.

    Attributes:
        build: Makes the model.
        optimizer: Makes the optimizer.
        options: Of `hg.check`.
        scheduler: Makes the schedule.
        dtype: Of the weights.
    """

    build: Callable[[], nn.Module] = mlp
    optimizer: Callable[[type[Optimizer], nn.Module], Optimizer] = one_group
    options: dict[str, Any] = field(default_factory=dict)
    scheduler: Callable[[Optimizer], Any] = lambda _: None
    dtype: torch.dtype = torch.float64


FEATURES = {
    "plain": Feature(),
    "clipping": Feature(options={"clip_norm": 0.01}),
    "accumulation": Feature(options={"accumulate": 2}),
    "two groups": Feature(optimizer=two_groups),
    "schedule": Feature(scheduler=lambda optimizer: StepLR(optimizer, 1, gamma=0.5)),
    "bf16": Feature(options={"autocast": torch.bfloat16}, dtype=torch.float32),
    "BatchNorm": Feature(build=lambda: mlp(nn.BatchNorm1d(5))),
    "dropout": Feature(build=lambda: mlp(nn.Dropout(0.3))),
}


def loss(model: Any, batch: Any) -> Tensor:
    """Plain cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def checked(optimizer: str, feature: str) -> Checked:
    """What `hg.check` says of one optimizer with one feature."""
    what = FEATURES[feature]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64).to(what.dtype)
    data = TensorDataset(x, torch.randint(CLASSES, (SAMPLES,), generator=generator))
    model = what.build().to(what.dtype)
    steps = what.optimizer(OPTIMIZERS[optimizer], model)
    scheduler = what.scheduler(steps)
    return hg.check(model, steps, loss, data, batch_size=BATCH_SIZE, scheduler=scheduler, timed=False, **what.options)


def row(optimizer: str, feature: str) -> dict[str, Any]:
    """The entry of the matrix: by mode its route, or why it is refused."""
    result = checked(optimizer, feature)
    modes = {mode.name: mode.route for mode in result.modes if mode.works}
    modes |= {mode.name: f"refused: {mode.refusal.cause}" for mode in result.modes if not mode.works and mode.refusal}
    return {"optimizer": optimizer, "feature": feature, "recordable": result.recordable, "modes": modes}


def every_row() -> Iterator[dict[str, Any]]:
    """All of them."""
    for optimizer in OPTIMIZERS:
        for feature in FEATURES:
            yield row(optimizer, feature)
