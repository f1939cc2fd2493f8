"""Many at once: networks in one training step, queries in one curvature sweep. `python -m benchmarks.many`.

Processor time in milliseconds per network and step, and per query and step; batch 64, one thread.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.progress import quiet
from studies.many_networks import train_together

BATCH, SAMPLES, STEPS = 64, 512, 8
SIZES = {"784-10": (784, 10), "784-128-64-10": (784, 128, 64, 10), "784-512-256-128-10": (784, 512, 256, 128, 10)}
NETWORKS, QUERIES = (1, 10, 50), (1, 4, 16, 32)


def network(sizes: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def milliseconds(work: Callable[[], object]) -> float:
    """Milliseconds of processor time per step; the first call is not counted."""
    work()
    begin = time.process_time()
    work()
    return (time.process_time() - begin) / STEPS * 1e3


def plain(sizes: tuple[int, ...], data: TensorDataset) -> float:
    model = network(sizes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def train() -> None:
        for indices in torch.randperm(SAMPLES).split(BATCH):
            optimizer.zero_grad()
            loss(model, [part[indices] for part in data.tensors]).mean().backward()
            optimizer.step()

    return milliseconds(train)


def together(sizes: tuple[int, ...], data: TensorDataset, count: int) -> float:
    models = [network(sizes) for _ in range(count)]
    batches = list(torch.stack([torch.randperm(SAMPLES) for _ in models]).split(BATCH, dim=1))
    return milliseconds(lambda: train_together(models, loss, data, batches, lr=0.01, momentum=0.9)) / count


def queries(sizes: tuple[int, ...], data: TensorDataset, count: int, path: Path) -> float:
    model = network(sizes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    run = hg.train(model, loss, data, optimizer, epochs=1, batch_size=BATCH, out=path)
    return milliseconds(lambda: hg.attribute(run, hg.sample_losses(data, range(count)), curvature="hessian")) / count


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(SAMPLES, 784), torch.randint(10, (SAMPLES,)))
    with quiet(), tempfile.TemporaryDirectory() as folder:
        for name, sizes in SIZES.items():
            print(name, f"plain loop {plain(sizes, data):.2f}")
            print("  networks at once:", *(f"{n}: {together(sizes, data, n):.2f}" for n in NETWORKS))
            exact = {n: queries(sizes, data, n, Path(folder) / f"{name}-{n}") for n in QUERIES}
            print("  queries in one exact sweep:", *(f"{n}: {value:.1f}" for n, value in exact.items()))


if __name__ == "__main__":
    main()
