"""What recording and every kind of attribution costs, as a ratio to plain training, and its peak memory.

LeNet-5 on MNIST (50,000 samples, batch 64, 2 epochs), one thread. Every measurement runs in a process of its own,
so that its peak memory is its own; the kinds take turns, and ratios are of medians over the repeats. Processor time is
compared beside the clock: on a busy machine it is the steadier of the two.
"""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.datasets import load
from hydragrad.errors import DataError
from hydragrad.models import LeNet5

BATCH = 64


@dataclass(frozen=True)
class Setting:
    """The size of the comparison."""

    train_size: int
    epochs: int


@dataclass(frozen=True)
class Kind:
    """One thing measured: its name, the job, and the ratio (and the further query's) it is held to."""

    name: str
    limit: float | None
    job: Callable[[Setting, Path], None]


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy, one number a sample."""
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def data(setting: Setting) -> tuple[TensorDataset, TensorDataset]:
    """MNIST where it is at hand, random images of the same shape otherwise: the cost is the same."""
    try:
        splits = load("mnist", train_size=setting.train_size)
        return splits.train, splits.validation
    except DataError:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(setting.train_size + 10_000, 1, 32, 32, generator=generator)
        labels = torch.randint(10, (len(images),), generator=generator)
        cut = setting.train_size
        return TensorDataset(images[:cut], labels[:cut]), TensorDataset(images[cut:], labels[cut:])


def fresh() -> tuple[LeNet5, torch.optim.SGD]:
    """Model and optimizer of the paper's MNIST run."""
    torch.manual_seed(0)
    model = LeNet5()
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-5)


def plain(setting: Setting, _run: Path) -> None:
    """A plain PyTorch loop over the same in-memory data."""
    (images, labels), (model, optimizer) = data(setting)[0].tensors, fresh()
    _clock()
    for _ in range(setting.epochs):
        order = torch.randperm(len(images))
        for indices in order.split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[indices]), labels[indices]).backward()
            optimizer.step()


def recording(setting: Setting, run: Path) -> None:
    """hg.train."""
    train_set, (model, optimizer) = data(setting)[0], fresh()
    shutil.rmtree(run, ignore_errors=True)
    _clock()
    hg.train(model, loss, train_set, optimizer, epochs=setting.epochs, batch_size=BATCH, out=run)


def attributing(queries: int, **options: Any) -> Callable[[Setting, Path], None]:
    """hg.attribute, opening the run and differentiating the queries included."""

    def job(setting: Setting, run: Path) -> None:
        train_set, validation = data(setting)
        _clock()
        opened = hg.Recording(run, LeNet5(), loss, train_set)
        further = [hg.sample_losses(validation, range(queries - 1))] if queries > 1 else []
        asked = [hg.mean_loss(validation), *further]
        hg.attribute(opened, asked, **options)

    return job


KINDS = [
    Kind("plain", None, plain),
    Kind("recording", 1.05, recording),
    Kind("none, hooks", 1.6, attributing(1)),
    Kind("none, hooks, 5 queries", None, attributing(5)),
    Kind("none, forward mode", 2.0, attributing(1, route="jvp")),
    Kind("none, forward mode, 5 queries", None, attributing(5, route="jvp")),
    Kind("hessian", 4.2, attributing(1, curvature="hessian")),
    Kind("ggn", 3.4, attributing(1, curvature="ggn")),
]
FURTHER = 0.4


def measure(setting: Setting, repeats: int, only: str = "") -> None:
    """Run everything and print the table."""
    chosen = [kind for kind in KINDS if only in kind.name or kind.name in ("plain", "recording")]
    seconds: dict[str, list[float]] = {kind.name: [] for kind in chosen}
    processor: dict[str, list[float]] = {kind.name: [] for kind in chosen}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for kind in chosen:
                result = _in_own_process(kind, setting, Path(folder) / "run")
                seconds[kind.name].append(result["seconds"])
                processor[kind.name].append(result["processor"])
                memory[kind.name] = max(memory.get(kind.name, 0.0), result["peak_mib"])
                measured = f"{result['seconds']:.1f} s, processor {result['processor']:.1f} s"
                print(f"repeat {repeat + 1}: {kind.name}: {measured}", file=sys.stderr, flush=True)
        size = sum(file.stat().st_size for file in (Path(folder) / "run").rglob("*") if file.is_file())
    print(
        f"LeNet-5, {setting.train_size:,} samples, batch {BATCH}, {setting.epochs} epochs, one thread, "
        f"{repeats} repeats\n"
    )
    print(f"{'':32} {'x plain':>8} {'(clock)':>8} {'held to':>8} {'spread':>13} {'peak MiB':>9}")
    base, clock = statistics.median(processor["plain"]), statistics.median(seconds["plain"])
    for kind in chosen:
        each = processor[kind.name]
        ratio, by_clock = statistics.median(each) / base, statistics.median(seconds[kind.name]) / clock
        spread = f"{min(each) / base:.2f} - {max(each) / base:.2f}"
        limit = f"{kind.limit:.2f}" if kind.limit else ""
        print(f"{kind.name:32} {ratio:8.2f} {by_clock:8.2f} {limit:>8} {spread:>13} {memory[kind.name]:9,.0f}")
    for name in ("none, hooks", "none, forward mode"):
        if name in seconds:
            more = statistics.median(processor[f"{name}, 5 queries"]) - statistics.median(processor[name])
            print(f"{name + ': each further query':32} {more / 4 / base:8.2f} {'':8} {FURTHER:8.2f}")
    print(f"run directory: {size / 2**20:.1f} MiB; plain: {clock:.1f} s")


def _in_own_process(kind: Kind, setting: Setting, run: Path) -> dict[str, float]:
    arguments = [kind.name, str(setting.train_size), str(setting.epochs), str(run)]
    command = [sys.executable, "-m", "benchmarks.costs", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


_started = (0.0, 0.0)


def _clock() -> None:
    global _started
    _started = (time.perf_counter(), time.process_time())


def _one(name: str, train_size: str, epochs: str, run: str) -> None:
    torch.set_num_threads(1)
    kind = next(kind for kind in KINDS if kind.name == name)
    kind.job(Setting(int(train_size), int(epochs)), Path(run))
    seconds, processor = time.perf_counter() - _started[0], time.process_time() - _started[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "processor": processor, "peak_mib": peak}))


if __name__ == "__main__":
    _one(*sys.argv[1:])
