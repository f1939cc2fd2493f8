"""What the checks cost: recording and every route with them, as a ratio to the same without.

LeNet-5 with SGD, and a small transformer with AdamW, on random data, one thread. Every job runs four times a round:
over a short run and a long one, with the checks and without, in turns. The ratio is that of the time which the
further steps of the long run take; what is left is paid once a call (the first step of every kind, the query, the
choice of a route), and is given in steps of the job without checks. Medians over the rounds, of processor time.
Without: nothing is compared, and neither graphs nor random steps are looked at. The number over the state and the
digests of batches, which every record has, stay in both.

    python -m benchmarks.checks [--rounds 9]
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.models import LeNet5

BATCH, SHORT, LONG = 64, 60, 240

Task = Callable[[hg.Recording, Path], object]


class Transformer(nn.Module):
    """Two layers over sequences of 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(64, 64), nn.Parameter(0.02 * torch.randn(16, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.layers(self.tokens(x) + self.places).mean(1))
        return result


@dataclass(frozen=True)
class Subject:
    """A model, its data, and its optimizer."""

    name: str
    build: Callable[[], nn.Module]
    draw: Callable[[torch.Generator, int], Tensor]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]

    def data(self, length: int, seed: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(seed)
        return TensorDataset(self.draw(generator, length), torch.randint(10, (length,), generator=generator))


SUBJECTS = (
    Subject(
        "LeNet-5, SGD",
        LeNet5,
        lambda g, n: torch.randn(n, 1, 32, 32, generator=g),
        lambda m: torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9),
    ),
    Subject(
        "transformer, AdamW",
        Transformer,
        lambda g, n: torch.randint(64, (n, 16), generator=g),
        lambda m: torch.optim.AdamW(m.parameters(), lr=1e-3),
    ),
)


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy, one number a sample."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


@contextmanager
def without_checks() -> Iterator[None]:
    """Compare nothing."""
    nothing: Any = lambda *_args, **_options: None  # noqa: E731
    never: Any = lambda *_args, **_options: False  # noqa: E731
    places = {
        "hydragrad.derivatives.held.Held.hold": nothing,
        "hydragrad.derivatives.graph.KindWatch.wants": never,
        "hydragrad.derivatives.coupling.CouplingWatch.wants": never,
        "hydragrad.derivatives.coupling.CouplingWatch.draws": never,
        "hydragrad.attribution.moments.kind_of_graph": lambda _losses: (),
        "hydragrad.recording.gradient_watch.GradientWatch.before_backward": nothing,
        "hydragrad.recording.gradient_watch.GradientWatch._note": nothing,
        "hydragrad.recording.reduction.Reduction.before_backward": nothing,
        "hydragrad.recording.gradient_watch.GradientWatch.require_untouched": nothing,
        "hydragrad.recording.update_check.UpdateCheck.before": nothing,
        "hydragrad.recording.update_check.UpdateCheck.after": nothing,
        "hydragrad.recording.settings_watch.SettingsWatch.require_untouched": nothing,
        "hydragrad.recording.settings_watch.SettingsWatch.begin": nothing,
    }
    for name in ("begin", "go_on", "require_untouched", "before_update", "after_update", "end_block"):
        places[f"hydragrad.recording.between_steps.BetweenSteps.{name}"] = nothing
    with ExitStack() as stack:
        for place, stand_in in places.items():
            stack.enter_context(patch(place, stand_in))
        yield


def record(subject: Subject, path: Path, steps: int) -> hg.Recording:
    """A run of so many steps."""
    torch.manual_seed(0)
    model, train_set = subject.build(), subject.data(BATCH * steps // 2, 1)
    optimizer = subject.optimizer(model)
    return hg.train(model, loss, train_set, optimizer, epochs=2, batch_size=BATCH, out=path, seed=0)


def tasks(subject: Subject) -> dict[str, Task]:
    """What is timed."""
    held_out = subject.data(250, 2)
    query = hg.mean_loss(held_out)
    return {
        "record": lambda run, folder: record(subject, folder / "again", len(run.steps)),
        "attribute, none": lambda run, _folder: hg.attribute(run, query),
        "attribute, hessian": lambda run, _folder: hg.attribute(run, query, curvature="hessian"),
        "attribute, ggn": lambda run, _folder: hg.attribute(run, query, curvature="ggn"),
        "store": lambda run, _folder: hg.hypergradients(run, samples=range(200)),
        "counterfactual": lambda run, _folder: hg.counterfactual(run, [[0]], query, keep=False),
    }


def seconds(task: Task, run: hg.Recording) -> float:
    """Processor time of one call."""
    run.repeated.update(range(len(run.steps)))  # one training more, once for an opened run, is no check of a step
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        task(run, Path(folder))
        return time.process_time() - begin


def measured(task: Task, runs: Sequence[hg.Recording], rounds: int) -> tuple[float, float, float, float]:
    """Median of the ratio a step with its quartiles, and of what is paid once, in steps."""
    ratios, once = [], []
    for number in range(rounds + 1):
        both: dict[bool, list[float]] = {}
        for checks in (True, False) if number % 2 else (False, True):
            with nullcontext() if checks else without_checks():
                both[checks] = [seconds(task, run) for run in runs]
        a_step = {checks: (long - short) / (LONG - SHORT) for checks, (short, long) in both.items()}
        if number:  # the first round warms up
            ratios.append(a_step[True] / a_step[False])
            fixed = both[True][0] - both[False][0] - SHORT * (a_step[True] - a_step[False])
            once.append(fixed / a_step[False])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high, statistics.median(once)


def run(rounds: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{'with checks / without':42} {'a step':>7} {'quartiles':>15} {'once, in steps':>15}")
    for subject in SUBJECTS:
        with tempfile.TemporaryDirectory() as folder:
            recorded = [record(subject, Path(folder) / str(steps), steps) for steps in (SHORT, LONG)]
            for name, task in tasks(subject).items():
                middle, low, high, once = measured(task, recorded, rounds)
                name = f"{subject.name}, {name}"
                print(f"{name:42} {middle:7.3f} {low:7.3f} – {high:5.3f} {once:15.1f}", flush=True)


def main() -> None:
    """Read the number of rounds and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    run(parser.parse_args().rounds)


if __name__ == "__main__":
    main()
