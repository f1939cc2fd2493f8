"""Every optimizer in every kind of loop on every kind of model: central differences of the loop, really retrained."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import Dataset, TensorDataset

import hydragrad as hg
from attribution import oracle
from cases import OPTIONS, SEED, collate
from hydragrad.randomness import preserved, seeded
from training_loops import Weighted

SAMPLES, BATCH, EPOCHS, TOKENS, WORDS = 12, 3, 2, 5, 7
H = 2e-6


# --- models: their data, per-sample losses, and the number that a step's sum of losses is divided by


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def batch_norm() -> nn.Module:
    """Without a bias whose gradient is nothing but rounding: optimizers that divide by its size follow the rounding."""
    return nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.GELU(), nn.Linear(5, 3))


class Padded(nn.Module):
    """A causal transformer over words, padded with word 0; without the bias of keys, which moves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 4, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, activation="gelu", batch_first=True, bias=False)
        self.head = nn.Linear(4, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        logits: Tensor = self.head(self.layer(self.words(words), src_mask=causal, src_key_padding_mask=words == 0))
        return logits


def classify(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def next_words(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Summed over the tokens of a sequence."""
    words = batch[0]
    losses = F.cross_entropy(model(words[:, :-1]).transpose(1, 2), words[:, 1:], ignore_index=0, reduction="none")
    return losses.sum(1)


def vectors(length: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(length, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(3, (length,), generator=generator))


def texts(length: int, seed: int) -> TensorDataset:
    """Three to six words, then padding."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, WORDS, (length, TOKENS + 1), generator=generator)
    lengths = torch.randint(3, TOKENS + 2, (length, 1), generator=generator)
    return TensorDataset(words * (torch.arange(TOKENS + 1) < lengths))


def count(batch: Sequence[Tensor]) -> float:
    return float(len(batch[0]))


def tokens(batch: Sequence[Tensor]) -> float:
    return float((batch[0][:, 1:] != 0).sum())


@dataclass(frozen=True)
class Problem:
    build: Callable[[], nn.Module]
    draw: Callable[[int, int], Dataset]
    loss: Callable[[nn.Module, Sequence[Tensor]], Tensor]
    size: Callable[[Sequence[Tensor]], float]
    clip: float
    """A norm of the gradient that some steps exceed."""

    def model(self) -> nn.Module:
        with seeded(SEED):
            return self.build().double().train()


PROBLEMS = {
    "mlp": Problem(mlp, vectors, classify, count, 0.75),
    "batch norm": Problem(batch_norm, vectors, classify, count, 1.3),
    "padded transformer": Problem(Padded, texts, next_words, tokens, 0.85),
}


# --- loops


@dataclass(frozen=True)
class Kind:
    """What a loop does next to stepping."""

    clip: bool = False
    accumulate: int = 1
    groups: int = 1
    schedule: bool = False


KINDS = {
    "plain": Kind(),
    "clipped": Kind(clip=True),
    "accumulated": Kind(accumulate=3),
    "two groups": Kind(groups=2),
    "scheduled": Kind(schedule=True),
}
OPTIMIZERS = [
    *("all", "adam", "adamw", "amsgrad", "nadam", "radam", "adamax", "rmsprop", "adagrad", "adadelta"),
    *("asgd", "adafactor", "muon", "own", "own_rows"),
]


def prepared(problem: Problem, kind: Kind, options: str) -> tuple[nn.Module, torch.optim.Optimizer, LRScheduler | None]:
    model = problem.model()
    optimizer = OPTIONS[options].optimizer(model)
    if kind.groups == 2 and len(optimizer.param_groups) == 1:
        group = optimizer.param_groups[0]
        half = len(group["params"]) // 2
        rest = group | {"params": group["params"][half:], "lr": 0.4 * group["lr"]}
        rest |= {"weight_decay": 0.0} if "weight_decay" in group else {}
        group["params"] = group["params"][:half]
        optimizer.param_groups.append(rest)
    return model, optimizer, CosineAnnealingLR(optimizer, 6) if kind.schedule else None


def batches() -> Iterator[list[list[int]]]:
    """The micro-batches of every epoch."""
    for epoch in range(EPOCHS):
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(50 + epoch))
        yield [part.tolist() for part in order.split(BATCH)]


def train(problem, kind, model, optimizer, scheduler, watcher) -> None:
    train_set = problem.draw(SAMPLES, 1)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for epoch in batches():
        for start in range(0, len(epoch), kind.accumulate):
            group = [collate(train_set, indices) for indices in epoch[start : start + kind.accumulate]]
            size = sum(problem.size(batch) for batch in group)
            for number, (indices, batch) in enumerate(zip(epoch[start:], group, strict=False)):
                with watcher.step(indices) as step:
                    (step.losses(batch).sum() / size).backward()
                    if number + 1 == len(group):
                        if kind.clip:
                            clip_grad_norm_(trained, problem.clip)
                        optimizer.step()
                        optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()


def record(problem, kind, options, path):
    model, optimizer, scheduler = prepared(problem, kind, options)
    with hg.Recorder(path, model, optimizer, problem.loss, problem.draw(SAMPLES, 1), seed=SEED) as recorder:
        train(problem, kind, model, optimizer, scheduler, recorder)
    return hg.Recording(path, problem.model(), problem.loss, problem.draw(SAMPLES, 1))


def held_out_loss(problem, kind, options, weights):
    model, optimizer, scheduler = prepared(problem, kind, options)
    with preserved():
        train(problem, kind, model, optimizer, scheduler, Weighted(problem.loss, model, optimizer, weights))
        with torch.no_grad():
            return problem.loss(model.eval(), collate(problem.draw(6, 2), range(6))).mean().item()


@pytest.mark.parametrize("options", OPTIMIZERS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("kind", KINDS)
def test_contributions_equal_central_differences(kind, problem, options, tmp_path):
    problem, kind = PROBLEMS[problem], KINDS[kind]
    run = record(problem, kind, options, tmp_path)
    retrained = functools.partial(held_out_loss, problem, kind, options)
    ones = torch.ones(SAMPLES, dtype=torch.float64)
    direction = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.tensor([-(retrained(ones + H * direction) - retrained(ones - H * direction)) / (2 * H)])
    scores = hg.attribute(run, hg.mean_loss(problem.draw(6, 2)), curvature="hessian", smoothing=0)
    assert scores.query_values.item() == pytest.approx(retrained(ones), rel=1e-11)
    assert oracle.relative(scores.values @ direction, expected.double()) < 1e-5


@pytest.mark.parametrize("problem", PROBLEMS)
def test_clipping_acts_at_some_steps_and_not_at_others(problem, tmp_path):
    acted = {step.clipped for step in record(PROBLEMS[problem], KINDS["clipped"], "adamw", tmp_path).steps}
    assert acted == {True, False}
