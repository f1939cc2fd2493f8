"""Two processes that train one model with DistributedDataParallel over gloo, for tests: one pair runs many cases."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.randomness import preserved, reseed_everything, seeded
from hydragrad.runs.manifest import read_manifest
from hydragrad.runs.processes import part_of
from hydragrad.runs.steps import read_steps
from recording.killing import server

SAMPLES, STEPS, CLASSES, PATIENCE = 16, 7, 3, 120
CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 1.7], dtype=torch.float64)


def together(job: Callable[..., Any], folder: Path, *args: Any, count: int = 2, codes: set[int] | None = None) -> Any:
    """Call `job(rank, folder, *args)` in processes of one group; returns what rank 0's call returned.

    Args:
        job: A function of a module.
        folder: For what it writes.
        args: Passed on.
        count: Processes.
        codes: Exit codes that are expected; all zero if None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in (*folder.glob("error-*"), folder / "store", folder / "result.pt"):
        file.unlink(missing_ok=True)
    processes = [server.Process(target=_member, args=(job, rank, count, folder, args)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    errors = [path.read_text() for path in sorted(folder.glob("error-*"))]
    ended = [process.exitcode for process in processes]
    if set(ended) != (codes or {0}):
        raise AssertionError("\n".join([f"exit codes {ended}", *errors]))
    result = folder / "result.pt"
    return torch.load(result, weights_only=False) if result.exists() else None


def _member(job: Callable[..., Any], rank: int, count: int, folder: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=count)
    try:
        result = job(rank, folder, *args)
        if rank == 0:
            torch.save(result, folder / "result.pt")
        dist.barrier()
    except BaseException:
        import traceback

        (folder / f"error-{rank}").write_text(traceback.format_exc())
        os._exit(1)
    dist.destroy_process_group()


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(CLASSES, (SAMPLES,), generator=generator))


def held_out() -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(CLASSES, (9,), generator=generator))


def loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def mlp() -> nn.Module:
    with seeded(7):
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()


def setup() -> tuple[Any, ...]:
    """What the command line asks for."""
    model = mlp()
    return model, loss, samples(), sgd(model), {"validation": held_out()}


def dropped() -> nn.Module:
    with seeded(7):
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, CLASSES)).double()


def normed() -> nn.Module:
    with seeded(7):
        return nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, CLASSES)).double()


def partly_frozen() -> nn.Module:
    model = normed()
    model[3].weight.requires_grad_(False)
    return model


def sgd(model: nn.Module) -> Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return SGD(trained, lr=0.3, momentum=0.8, weight_decay=0.02)


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.02, weight_decay=0.1)


@dataclass(frozen=True)
class Training:
    """A training of two ranks.

    Attributes:
        name: Of its folder.
        build: The model.
        optimizer: Of it.
        micro_batches: Of each rank, in every step.
        no_sync: Whether gradients are averaged at the last micro-batch only.
        clip: The norm that the averaged gradient is clipped to.
        frozen_from: The step from which BatchNorm is in eval mode.
        options: Of DistributedDataParallel.
    """

    name: str
    build: Callable[[], nn.Module] = mlp
    optimizer: Callable[[nn.Module], Optimizer] = sgd
    micro_batches: tuple[int, ...] = (1, 1)
    no_sync: bool = True
    clip: float | None = None
    frozen_from: int | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def indices(self, rank: int, step: int, number: int) -> list[int]:
        """Samples of a micro-batch: of different sizes, sometimes the same in two ranks, or twice in one."""
        generator = torch.Generator().manual_seed(1 + rank + 10 * number + 100 * step)
        return torch.randint(SAMPLES, (3 + (rank + step) % 3,), generator=generator).tolist()

    def wrapped(self) -> tuple[DistributedDataParallel, Optimizer]:
        model = self.build()
        return DistributedDataParallel(model, **dict(self.options)), self.optimizer(model)

    def train(self, rank: int, ddp: Any, optimizer: Optimizer, block: Callable[..., Any], steps: int = STEPS) -> None:
        """The loop; `block(step, number, indices, then)` surrounds a micro-batch and calls `then(losses)`."""
        for step in range(steps):
            if step == self.frozen_from:
                for module in ddp.modules():
                    module.train(module.training and not isinstance(module, nn.BatchNorm1d))
            count = self.micro_batches[rank]
            for number in range(count):
                last = number == count - 1
                indices = self.indices(rank, step, number)
                then = partial(self._micro_batch, ddp, optimizer, indices, last, count)
                with nullcontext() if last or not self.no_sync else ddp.no_sync():
                    block(step, number, indices, then)

    def _micro_batch(self, ddp: Any, optimizer: Optimizer, indices: list[int], last: bool, count: int, losses: Tensor):
        weights = CLASS_WEIGHTS[samples().tensors[1][indices]]
        ((losses * weights).sum() / weights.sum() / count).backward()
        if last:
            if self.clip is not None:
                nn.utils.clip_grad_norm_(ddp.parameters(), self.clip)
            optimizer.step()
            optimizer.zero_grad()


def record(training: Training, rank: int, path: Path, **options: Any) -> nn.Module:
    """Record a training."""
    ddp, optimizer = training.wrapped()
    data = samples()
    with hg.Recorder(path, ddp, optimizer, loss, data, seed=3, **options) as recorder:

        def block(step: int, number: int, indices: list[int], then: Callable[[Tensor], None]) -> None:
            with recorder.step(indices) as handle:
                then(handle.losses([tensor[indices] for tensor in data.tensors]))

        training.train(rank, ddp, optimizer, block)
    return ddp.module


def seeds_of(path: Path, rank: int) -> list[list[int]]:
    """What forward passes of a rank were seeded with, by step."""
    folder = part_of(path, rank)
    return [[part.seed for part in one.micro_batches] for one in read_steps(folder, read_manifest(folder))]


def retrain(training: Training, rank: int, weights: Tensor, seeds: list[list[int]]) -> nn.Module:
    """The same training without a recorder, with a weight on every sample's loss."""
    ddp, optimizer = training.wrapped()
    data = samples()

    def block(step: int, number: int, indices: list[int], then: Callable[[Tensor], None]) -> None:
        with preserved():
            reseed_everything(seeds[step][number])
            then(weights[indices] * loss(ddp, [tensor[indices] for tensor in data.tensors]))

    training.train(rank, ddp, optimizer, block)
    return ddp.module


def value(model: nn.Module) -> float:
    """The mean loss of held-out samples, in eval mode."""
    with torch.no_grad():
        return loss(model.eval(), held_out().tensors).mean().item()
