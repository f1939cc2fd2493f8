"""The cost of recording and of every kind of attribution, as a ratio to plain training, and its peak memory.

LeNet-5 on MNIST (50,000 samples, batch 64, 2 epochs), one thread. Every measurement runs in a process of its own,
so that its peak memory is its own. It runs between two halves of a plain training, because the speed of a shared
machine changes within minutes. The kinds take turns; ratios are medians over the repeats. Processor time and wall
time are both compared: on a busy machine, processor time varies less.
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
from hydragrad.training import Plan, checkpoint_distance, forecast_bytes

BATCH = 64


@dataclass(frozen=True)
class Setting:
    """The size of the comparison."""

    train_size: int
    epochs: int


Job = Callable[[Setting, Path, TensorDataset, TensorDataset], None]


@dataclass(frozen=True)
class Kind:
    """One kind of job: its name, the ratio that it must not exceed, and the job."""

    name: str
    limit: float | None
    job: Job


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy, one number per sample."""
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def data(setting: Setting) -> tuple[TensorDataset, TensorDataset]:
    """MNIST if available, else random images of the same shape: the cost is the same."""
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


def plain(train_set: TensorDataset, epochs: float) -> tuple[float, float]:
    """A plain PyTorch loop over the same in-memory data; returns seconds of wall time and of processor time."""
    (images, labels), (model, optimizer) = train_set.tensors, fresh()
    begin, left = _now(), round(epochs * len(images) / BATCH)
    while left:
        for indices in torch.randperm(len(images)).split(BATCH)[:left]:
            optimizer.zero_grad()
            F.cross_entropy(model(images[indices]), labels[indices]).backward()
            optimizer.step()
            left -= 1
    return _since(begin)


def recording(setting: Setting, run: Path, train_set: TensorDataset, validation: TensorDataset) -> None:
    """hg.train."""
    model, optimizer = fresh()
    shutil.rmtree(run, ignore_errors=True)
    hg.train(model, loss, train_set, optimizer, epochs=setting.epochs, batch_size=BATCH, out=run)


def attributing(queries: int, **options: Any) -> Job:
    """hg.attribute, including opening the run and differentiating the queries."""

    def job(setting: Setting, run: Path, train_set: TensorDataset, validation: TensorDataset) -> None:
        opened = hg.Recording(run, LeNet5(), loss, train_set)
        further = [hg.sample_losses(validation, range(queries - 1))] if queries > 1 else []
        hg.attribute(opened, [hg.mean_loss(validation), *further], **options)

    return job


KINDS = [
    Kind("recording", 1.05, recording),
    Kind("none, hooks", 1.6, attributing(1)),
    Kind("none, hooks, 5 queries", None, attributing(5)),
    Kind("none, forward mode", 2.0, attributing(1, route="jvp")),
    Kind("none, forward mode, 5 queries", None, attributing(5, route="jvp")),
    Kind("hessian", 4.2, attributing(1, curvature="hessian")),
    Kind("ggn", 3.4, attributing(1, curvature="ggn")),
]
FURTHER_QUERY_LIMIT = 0.4
MEMORY_LIMIT_MIB, DIRECTORY_LIMIT_MIB, LONG_EPOCHS = 2048, 200, 20


def measure(setting: Setting, repeats: int, only: str = "") -> None:
    """Run everything and print the table."""
    kinds = [kind for kind in KINDS if only in kind.name or kind.name == "recording"]
    ratios: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    clocks: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    memory: dict[str, float] = {}
    plain_seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for kind in kinds:
                result = _in_own_process(kind, setting, Path(folder) / "run")
                ratios[kind.name].append(result["processor"] / result["plain_processor"])
                clocks[kind.name].append(result["seconds"] / result["plain_seconds"])
                memory[kind.name] = max(memory.get(kind.name, 0.0), result["peak_mib"])
                plain_seconds.append(result["plain_processor"])
                measured = f"processor {result['processor']:.1f} s, plain {result['plain_processor']:.1f} s"
                print(f"repeat {repeat + 1}: {kind.name}: {measured}", file=sys.stderr, flush=True)
        size = sum(file.stat().st_size for file in (Path(folder) / "run").rglob("*") if file.is_file())
    print(
        f"LeNet-5, {setting.train_size:,} samples, batch {BATCH}, {setting.epochs} epochs, one thread, "
        f"{repeats} repeats; plain training: {statistics.median(plain_seconds):.1f} s of processor time\n"
    )
    print(f"{'':34} {'x plain':>8} {'(clock)':>8} {'limit':>8} {'spread':>13} {'peak MiB':>9}")
    for kind in kinds:
        repeated = ratios[kind.name]
        by_clock = statistics.median(clocks[kind.name])
        limit = f"{kind.limit:.2f}" if kind.limit else ""
        spread = f"{min(repeated):.2f} - {max(repeated):.2f}"
        row = f"{statistics.median(repeated):8.2f} {by_clock:8.2f} {limit:>8} {spread:>13} {memory[kind.name]:9,.0f}"
        print(f"{kind.name:34} {row}")
    for name in ("none, hooks", "none, forward mode"):
        if name in ratios:
            more = (statistics.median(ratios[f"{name}, 5 queries"]) - statistics.median(ratios[name])) / 4
            print(f"{name + ': each further query':34} {more:8.2f} {'':8} {FURTHER_QUERY_LIMIT:8.2f}")
    print(f"peak memory: {max(memory.values()):,.0f} MiB, limit {MEMORY_LIMIT_MIB:,} MiB")
    long = _forecast_mib(setting.train_size)
    print(
        f"run directory: {size / 2**20:.1f} MiB; forecast for {LONG_EPOCHS} epochs: {long:.0f} MiB, "
        f"limit {DIRECTORY_LIMIT_MIB} MiB"
    )


def _forecast_mib(train_size: int) -> float:
    plan = Plan(epochs=LONG_EPOCHS, batch_size=BATCH)
    every = checkpoint_distance(plan.steps(train_size))
    return forecast_bytes(*fresh(), train_size, plan, every) / 2**20


def _in_own_process(kind: Kind, setting: Setting, run: Path) -> dict[str, float]:
    arguments = [kind.name, str(setting.train_size), str(setting.epochs), str(run)]
    command = [sys.executable, "-m", "benchmarks.costs", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begin: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def _one(name: str, train_size: str, epochs: str, run: str) -> None:
    torch.set_num_threads(1)
    setting = Setting(int(train_size), int(epochs))
    train_set, validation = data(setting)
    kind = next(kind for kind in KINDS if kind.name == name)
    before = plain(train_set, setting.epochs / 2)
    begin = _now()
    kind.job(setting, Path(run), train_set, validation)
    seconds, processor = _since(begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    after = plain(train_set, setting.epochs / 2)
    plain_seconds, plain_processor = (one + other for one, other in zip(before, after, strict=True))
    result = {"seconds": seconds, "processor": processor, "peak_mib": peak}
    print(json.dumps(result | {"plain_seconds": plain_seconds, "plain_processor": plain_processor}))


if __name__ == "__main__":
    _one(*sys.argv[1:])
