"""The cost of a tracked training step, as a ratio to a plain step, against the number of tracked samples.

LeNet-5 on 32x32 images, batch 64, momentum 0.9, every sample of a batch tracked, one thread, medians over steps of
processor time. The eager oracle advances the rows of all tracked samples at every step, as the paper writes the
algorithm; it runs where its two numbers per sample and parameter fit into memory.

    python -m benchmarks.tracking [--steps 60] [--pairs 10000]

The networks with BatchNorm, with the statistics of a batch as constants:

    python -m benchmarks.tracking --network densenet40 [--batch 64] [--steps 3]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.models import LeNet5, build
from hydragrad.tracking import Store

BATCH, WARM_UP, COLUMNS = 64, 5, 2048


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy, one number per sample."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def data(count: int) -> TensorDataset:
    """Random images: the cost of a step does not depend on their content."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 32, 32, generator=generator)
    return TensorDataset(images, torch.randint(10, (count,), generator=generator))


class Loop:
    """A training loop with timed steps."""

    def __init__(self, count: int) -> None:
        torch.manual_seed(0)
        self.data, self.model = data(count), LeNet5()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def one_step(self, indices: Tensor) -> None:
        """A plain step."""
        images, labels = self.data.tensors
        self.optimizer.zero_grad()
        loss(self.model, [images[indices], labels[indices]]).mean().backward()
        self.optimizer.step()

    def timed(self, steps: int, step: Callable[[Tensor], None]) -> float:
        """Median processor seconds per step."""
        generator, seconds = torch.Generator().manual_seed(1), []
        for _ in range(steps + WARM_UP):
            indices = torch.randperm(len(self.data), generator=generator)[:BATCH]
            start = time.process_time()
            step(indices)
            seconds.append(time.process_time() - start)
        return statistics.median(seconds[WARM_UP:])


def plain(steps: int) -> float:
    """Without a tracker."""
    loop = Loop(2000)
    return loop.timed(steps, loop.one_step)


def tracked(steps: int, count: int, **options: Any) -> tuple[float, Store]:
    """With all samples of a data set of `count` tracked."""
    loop = Loop(count)
    with hg.Tracker(loop.model, loop.optimizer, loss, loop.data, **options) as tracker:
        images, labels = loop.data.tensors

        def step(indices: Tensor) -> None:
            with tracker.step(indices, [images[indices], labels[indices]]):
                loop.one_step(indices)

        seconds = loop.timed(steps, step)
    return seconds, tracker.store


def network(name: str, batch: int, steps: int) -> None:
    """A network with BatchNorm, plain and with every sample of a batch tracked, statistics frozen; print the ratio."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4 * batch, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (4 * batch,), generator=generator)
    torch.manual_seed(0)
    model = build(name, channels=3, classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def one_step(indices: Tensor) -> None:
        optimizer.zero_grad()
        loss(model, [images[indices], labels[indices]]).mean().backward()
        optimizer.step()

    def timed(step: Callable[[Tensor], None], warm_up: int) -> float:
        seconds = []
        for _ in range(warm_up + steps):
            indices = torch.randperm(len(images), generator=generator)[:batch]
            start = time.process_time()
            step(indices)
            seconds.append(time.process_time() - start)
        return statistics.median(seconds[warm_up:])

    base, train_set = timed(one_step, 1), TensorDataset(images, labels)
    # A tracker without a Recorder replays steps 0, 1, 2, 4, 8, ... at once.
    with hg.Tracker(model, optimizer, loss, train_set, projection=COLUMNS, batch_statistics="frozen") as tracker:

        def tracked_step(indices: Tensor) -> None:
            with tracker.step(indices, [images[indices], labels[indices]]):
                one_step(indices)

        seconds = timed(tracked_step, 5)
    print(
        f"{name}, batch {batch}, projected to {COLUMNS:,}, frozen statistics: "
        f"plain {base:.2f} s, x {seconds / base:.2f}"
    )


def eager(steps: int, count: int) -> float:
    """The oracle: every step advances all rows and velocities."""
    loop = Loop(count)
    parameters = list(loop.model.parameters())
    width = sum(parameter.numel() for parameter in parameters)
    rows, velocities = torch.zeros(count, width), torch.zeros(count, width)
    images, labels = loop.data.tensors

    def step(indices: Tensor) -> None:
        losses = loss(loop.model, [images[indices], labels[indices]])
        one_hot = torch.eye(BATCH)
        gradients = torch.autograd.grad(losses, parameters, one_hot, is_grads_batched=True)
        loop.one_step(indices)
        velocities.mul_(0.9)
        velocities[indices] += torch.cat([gradient.flatten(1) for gradient in gradients], 1) / BATCH
        rows.sub_(velocities, alpha=0.01)

    return loop.timed(steps, step)


def all_pairs(store: Store, queries: int) -> float:
    """Processor seconds for every tracked sample x every query."""
    start = time.process_time()
    store.contributions(hg.sample_losses(data(queries), range(queries)), top=10)
    return time.process_time() - start


def main() -> None:
    """Read the size and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each kind (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=10_000, help="queries of the all-pairs product")
    parser.add_argument("--network", help="only this network with BatchNorm: densenet40 or mobilenetv2")
    parser.add_argument("--batch", type=int, default=BATCH, help="its samples a step")
    options = parser.parse_args()
    if options.network:
        network(options.network, options.batch, options.steps)
        return
    run(steps=options.steps, pairs=options.pairs)


def run(*, steps: int, pairs: int) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    base = plain(steps)
    print(f"plain step: {base * 1e3:.2f} ms of processor time\n\n{'':44} {'x plain':>8}")

    def show(name: str, seconds: float) -> None:
        print(f"{name:44} {seconds / base:8.2f}", flush=True)

    first, _ = tracked(steps, 400, projection=COLUMNS)
    show(f"400 tracked, projected to {COLUMNS:,}", first)
    last, store = tracked(steps, 50_000, projection=COLUMNS)
    show(f"50,000 tracked, projected to {COLUMNS:,}", last)
    show("400 tracked, whole rows", tracked(steps, 400)[0])
    show("10,000 tracked, whole rows", tracked(steps, 10_000)[0])
    for count in (400, 2000, 10_000):
        show(f"{count:,} tracked, eager oracle", eager(max(3, steps // (count // 100)), count))
    print(f"\n50,000 tracked against 400, projected: {last / first:.2f} (held to 1.10)")
    seconds, training = all_pairs(store, pairs), base * 20 * 782
    print(
        f"all pairs 50,000 x {pairs:,} from {COLUMNS:,} columns: {seconds:.0f} s of processor time, "
        f"{seconds / training:.2f} trainings of 20 epochs (held to 2)"
    )


if __name__ == "__main__":
    main()
