"""What a run too large for one machine would cost in each mode, reckoned from measured constants.

Measured: what a mode costs in trainings (docs/costs.md and docs/tracking.md: `python -m benchmarks`, rounded as the
forecasts of the command line round it), and the bytes of a step in the log, here. Given on the command line: the run,
the machines, and how long a training takes. Everything else is counting.

    python -m benchmarks.on_paper [--parameters 1e9] [--samples 1e6] [--epochs 1] [--batch 512] [--workers 64]
"""

import argparse
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.attribution.blocks import MOST
from hydragrad.progress import quiet
from hydragrad.scores.method import TRAININGS
from hydragrad.training.train import checkpoint_distance

RECORDING = 1.10
"""Trainings that recording takes, docs/costs.md."""
TRACKED, WHOLE = 1.7, 6.9
"""Trainings that projected rows and whole rows take, docs/tracking.md."""
FLOAT, PROJECTED = 4, 2048
"""Bytes of a number, and columns of a projected row."""
STEPS = 4
"""Recorded to measure the log."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run and the machines.

    Attributes:
        parameters, samples, epochs, batch: How many.
        states: Numbers that the optimizer keeps of a parameter.
        workers: Jobs at a time.
        memory: Bytes that the replayed states of a sweep may take in one of them.
    """

    parameters: float
    samples: float
    epochs: float
    batch: float
    states: int
    workers: int
    memory: float

    @property
    def steps(self) -> float:
        """Of the optimizer."""
        return self.samples * self.epochs / self.batch

    @property
    def checkpoints(self) -> float:
        """As `hg.train` spaces them."""
        return self.steps // self._distance + 2

    @property
    def again(self) -> int:
        """How often a sweep replays the run once more, since the states of a segment do not fit into memory."""
        room = max(2.0, self.memory // (self.state + 2 * self.parameters * FLOAT))
        return max(0, math.ceil(math.log(self._distance, room)) - 1)

    @property
    def _distance(self) -> int:
        return checkpoint_distance(int(self.steps))

    @property
    def state(self) -> float:
        """Bytes of a checkpoint."""
        return self.parameters * FLOAT * (1 + self.states)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one mode.

    Attributes:
        mode: What is called.
        trainings: The work, in trainings.
        jobs: Into how many independent jobs it falls.
        disk: Bytes that are written.
        traffic: Bytes that all jobs together read and send.
    """

    mode: str
    trainings: float
    jobs: float
    disk: float
    traffic: float

    def wall(self, workers: int) -> float:
        """Trainings until it is done: the jobs in rounds."""
        return self.trainings / self.jobs * math.ceil(self.jobs / workers)


def costs(run: Run, log_bytes: float) -> list[Cost]:
    """Every mode, for one query where queries matter."""
    every_checkpoint, model = run.checkpoints * run.state, run.parameters * FLOAT
    blocks = min(MOST, math.floor(run.checkpoints) - 1)
    visits = run.samples * run.epochs * 8
    exact, projected = run.samples * model, run.samples * PROJECTED * FLOAT

    def cost(mode: str, trainings: float, jobs: float, disk: float, traffic: float) -> Cost:
        return Cost(mode=mode, trainings=trainings, jobs=jobs, disk=disk, traffic=traffic)

    hessian, ggn = (TRAININGS[curvature] + run.again for curvature in ("hessian", "ggn"))
    sgd = replace(run, states=1)
    return [
        cost("record", RECORDING, 1, run.steps * log_bytes + every_checkpoint, 0),
        cost("none, SGD", TRAININGS["none"], blocks, visits, sgd.checkpoints * sgd.state + visits),
        cost("hessian, one chunk of queries", hessian, 1, run.samples * 8, every_checkpoint),
        cost("hessian, 64 chunks", 64 * hessian, 64, 64 * run.samples * 8, 64 * every_checkpoint),
        cost("ggn, 4 replays", 4 * (1 + ggn), 4, 4 * run.samples * 8, 4 * run.state),
        cost("verify, 64 groups", 64, 64, 64 * model, 64 * (run.state + model)),
        cost("ensemble of 8, none", 8 * (RECORDING + TRAININGS["none"]), 8, 8 * every_checkpoint, 0),
        cost("projected rows, SGD, one shard", TRACKED, 1, projected, every_checkpoint),
        cost("projected rows, SGD, 8 shards", TRACKED * 8, 8, projected, 8 * every_checkpoint),
        cost("whole rows, SGD", WHOLE, 1, exact, every_checkpoint),
    ]


def log_bytes(run: Run) -> float:
    """Bytes of a step in the log, measured with as many samples and as large batches as the run has."""
    length, batch = int(run.samples), int(run.batch)
    data = TensorDataset(torch.zeros(length, 1), torch.zeros(length))
    model = nn.Linear(1, 1)

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        losses: torch.Tensor = (model(batch[0])[:, 0] - batch[1]).square()
        return losses

    with tempfile.TemporaryDirectory() as folder, quiet():
        path, optimizer = Path(folder) / "run", torch.optim.SGD(model.parameters(), lr=0.0)
        with hg.Recorder(path, model, optimizer, loss, data) as recorder:
            generator = torch.Generator().manual_seed(0)
            for _ in range(STEPS):
                indices = torch.randperm(length, generator=generator)[:batch].tolist()
                with recorder.step(indices) as step:
                    step.losses(data[indices]).mean().backward()
                    optimizer.step()
                    optimizer.zero_grad()
        return (path / "steps.jsonl").stat().st_size / STEPS


def main() -> None:
    """Read the sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("parameters", 1e9), ("samples", 1e6), ("epochs", 1.0), ("batch", 512.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--states", type=int, default=2, help="numbers a parameter that the optimizer keeps")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--memory", type=float, default=64e9, help="bytes for replayed states in one of them")
    parser.add_argument("--training-hours", type=float, default=24.0, help="of one worker; assumed, not measured")
    parser.add_argument("--bandwidth", type=float, default=1e9, help="bytes a second of storage and network")
    options = vars(parser.parse_args())
    hours, bandwidth = options.pop("training_hours"), options.pop("bandwidth")
    run = Run(**options)
    print(f"{run.steps:,.0f} steps, {run.checkpoints:,.0f} checkpoints of {run.state / 1e9:,.1f} GB\n")
    print(f"A sweep replays the run {run.again} more times, since the states of a segment exceed the memory.\n")
    print("| mode | trainings | jobs | done after, hours | on disk, GB | traffic, GB | hours of traffic |")
    print("|---|---|---|---|---|---|---|")
    for cost in costs(run, log_bytes(run)):
        print(
            f"| {cost.mode} | {cost.trainings:,.1f} | {cost.jobs:,.0f} | {cost.wall(run.workers) * hours:,.1f} | "
            f"{cost.disk / 1e9:,.1f} | {cost.traffic / 1e9:,.1f} | {cost.traffic / bandwidth / 3600:,.1f} |"
        )


if __name__ == "__main__":
    main()
