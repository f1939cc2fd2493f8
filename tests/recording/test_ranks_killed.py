"""Two ranks of which one is really killed, and the run resumed by both."""

import os
import signal

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.utils.data import DataLoader, DistributedSampler

import hydragrad as hg
from hydragrad.recording.run_writer import RunWriter
from hydragrad.runs.processes import part_of
from recording.ranks import CLASSES, loss, samples, together
from recording.toys import log_of

EPOCHS = 4
PLACES = [
    ("write_step", 0, 6),  # rank 1 is a step ahead
    ("write_step", 1, 6),  # rank 0 is
    ("write_checkpoint", 1, 4),  # rank 0 has a checkpoint more
    ("write_checkpoint", 1, 0),  # before the first step
    ("write_step", 0, 0),  # rank 1 logged it
]

AT_THE_START = "at-the-start"


def build():
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, CLASSES)
    ).double()


def train(path, **options):
    """A user's loop: the seeds of the loader differ by rank, as those of a script without any seed."""
    ddp = DistributedDataParallel(build())
    optimizer, data = AdamW(ddp.parameters(), lr=0.02), samples()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    torch.manual_seed(dist.get_rank())
    sampler = DistributedSampler(data, seed=3)
    loader = DataLoader(data, batch_size=3, sampler=sampler)
    options = {"checkpoint_every": 2, "scheduler": scheduler, "seed": 5, **options}
    with hg.Recorder(path, ddp, optimizer, loss, data, **options) as recorder:
        for epoch in range(recorder.next_step // len(loader), EPOCHS):
            sampler.set_epoch(epoch)
            for indices, batch in hg.indexed(loader, recorder=recorder):
                with recorder.step(indices) as step:
                    optimizer.zero_grad()
                    step.losses(batch).mean().backward()
                    optimizer.step()
            scheduler.step()
    return ddp.module.state_dict()


def killed(rank, folder, name, method, by, at):
    def kill(self, what):
        if (rank, what.step) == (by, at):
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, what)

    original = getattr(RunWriter, method)
    setattr(RunWriter, method, kill)
    train(folder / name, resume=True)


def killed_at_the_start(rank, folder, name):
    """Rank 1 before it writes anything, rank 0 once it has the first checkpoint."""
    start, write = RunWriter.start, RunWriter.write_checkpoint

    def die(self, *what):
        write(self, *what) if rank == 0 else None
        os.kill(os.getpid(), signal.SIGKILL)

    RunWriter.start, RunWriter.write_checkpoint = (start, die) if rank == 0 else (die, write)
    train(folder / name, resume=True)


def resumed(rank, folder, names):
    return {name: train(folder / name, resume=True) for name in names}


def name_of(place):
    return "-".join(map(str, place))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    names = [name_of(place) for place in PLACES]
    for place, name in zip(PLACES, names, strict=True):
        together(killed, folder, name, *place, codes={1, -signal.SIGKILL})
    together(killed_at_the_start, folder, AT_THE_START, codes={-signal.SIGKILL})
    return folder, together(resumed, folder, [*names, AT_THE_START, "whole"])


@pytest.mark.parametrize("name", [*map(name_of, PLACES), AT_THE_START])
def test_a_run_of_which_a_rank_was_killed_goes_on_as_if_it_had_not_been(name, runs):
    folder, ends = runs
    for tensor, expected in zip(ends[name].values(), ends["whole"].values(), strict=True):
        assert torch.equal(tensor, expected)
    for rank in (0, 1):
        assert log_of(part_of(folder / name, rank)) == log_of(part_of(folder / "whole", rank))
    run = hg.Recording(folder / name, build(), loss, samples())
    assert run.completed
