import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

import hydragrad as hg
from hydragrad.errors import DataError
from recording.killing import ORDERS, Augmented, loader_of
from recording.test_faults import Stream
from recording.toys import BATCH_SIZE, PER_EPOCH, SAMPLES, samples


def numbers():
    """Samples that tell their index."""
    return TensorDataset(torch.arange(SAMPLES))


def make(name, workers=0):
    data, own = numbers(), torch.Generator().manual_seed(2)
    if name in ORDERS:
        return loader_of(data, name, workers)
    options = {
        "in order": {"batch_size": BATCH_SIZE},
        "last one dropped": {"batch_size": BATCH_SIZE, "shuffle": True, "drop_last": True},
        "weighted": {"batch_size": BATCH_SIZE, "sampler": WeightedRandomSampler(torch.rand(SAMPLES), 13)},
        "replacement": {"batch_size": BATCH_SIZE, "sampler": RandomSampler(data, True, 13, generator=own)},
        "batches": {"batch_sampler": BatchSampler(RandomSampler(data), 4, True)},
    }
    return DataLoader(data, num_workers=workers, **options[name])


LOADERS = [*ORDERS, "in order", "last one dropped", "weighted", "replacement", "batches"]


@pytest.mark.parametrize("name", LOADERS)
def test_order_and_generators_are_those_of_the_stock_loader(name):
    ends = []
    orders = []
    for iterate in (lambda loader: loader, hg.indexed):
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        loader = make(name)
        orders.append([])
        for _ in range(3):
            for given in iterate(loader):
                if iterate is hg.indexed:
                    indices, given = given
                    assert indices == given[0].tolist()
                orders[-1].append(given[0].tolist())
        ends.append((torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()))
    assert orders[0] == orders[1]
    assert ends[0] == ends[1]


def augmented_epochs(order, workers=0):
    torch.manual_seed(5)
    random.seed(5)
    loader = loader_of(Augmented(), order, workers)
    return [[(list(indices), batch[0]) for indices, batch in hg.indexed(loader)] for _ in range(2)]


@pytest.mark.parametrize("order", ["global", "loader's"])
def test_augmentation_is_the_same_with_any_number_of_workers(order):
    for here, elsewhere in zip(augmented_epochs(order), augmented_epochs(order, workers=2), strict=True):
        for (indices, batch), (other_indices, other_batch) in zip(here, elsewhere, strict=True):
            assert indices == other_indices
            assert torch.equal(batch, other_batch)


@pytest.mark.parametrize("order", ORDERS)
def test_every_epoch_is_augmented_anew(order):
    """A seed that is drawn from the global generator alone repeats where the loader has one of its own."""
    clean = samples().tensors[0]
    noise = [
        {
            index: (x - clean[index]).mean().item()
            for indices, batch in epoch
            for index, x in zip(indices, batch, strict=True)
        }
        for epoch in augmented_epochs(order)
    ]
    changes = [abs(noise[0][index] - noise[1][index]) for index in range(SAMPLES)]
    assert min(changes) > 1e-6
    assert len({round(change, 6) for epoch in noise for change in epoch.values()}) == 2 * SAMPLES


def test_the_global_generators_are_left_alone_by_augmentation():
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    assert len(list(hg.indexed(DataLoader(Augmented(), BATCH_SIZE)))) == PER_EPOCH
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize(
    "loader", [DataLoader(Stream(), 4), DataLoader(numbers(), batch_size=None)], ids=["stream", "unbatched"]
)
def test_loaders_without_indices_are_refused(loader):
    with pytest.raises(DataError, match=r"hg.indexed needs a DataLoader with batches over a map-style data set"):
        next(hg.indexed(loader))
