"""Two processes train one model with DistributedDataParallel, one is killed, and the run is attributed in one process.

`python examples/two_processes.py` does it all. The training itself is an ordinary script for torchrun.
"""

import os
import signal
import subprocess
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import hydragrad as hg


def loss(model, batch):  # per-sample losses, shape (batch,); calls the model once
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def setup():
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    labels[:50] = (labels[:50] + 1) % 10  # the first fifty labels are wrong
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.GELU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train_set, held_out = TensorDataset(images[:600], labels[:600]), TensorDataset(images[600:], labels[600:])
    return model, loss, train_set, optimizer, {"validation": held_out}


def train(path):  # in every process
    dist.init_process_group("gloo")  # "nccl" on GPUs
    model, loss, train_set, optimizer, _ = setup()
    ddp = DistributedDataParallel(model)
    sampler = DistributedSampler(train_set, seed=1)
    loader = DataLoader(train_set, batch_size=16, sampler=sampler)
    about = {"settings": {"source": "two_processes:setup"}}  # for the command line
    with hg.Recorder(path, ddp, optimizer, loss, train_set, about=about, resume=True) as recorder:
        fresh = recorder.next_step == 0
        for epoch in range(recorder.next_step // len(loader), 8):
            sampler.set_epoch(epoch)
            for indices, batch in hg.indexed(loader, recorder=recorder):
                with recorder.step(indices) as step:
                    optimizer.zero_grad()
                    step.losses(batch).mean().backward()
                    optimizer.step()
                if fresh and (dist.get_rank(), recorder.next_step) == (1, 70):
                    os.kill(os.getpid(), signal.SIGKILL)  # as a machine that fails
    dist.destroy_process_group()


if __name__ == "__main__" and "RANK" in os.environ:
    train(sys.argv[1])
elif __name__ == "__main__":
    path = f"{tempfile.mkdtemp()}/run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__, path]
    assert subprocess.run(torchrun, check=False).returncode, "a process was killed, and torchrun ended the other"
    subprocess.run(torchrun, check=True)  # the same command again: the run goes on from its last checkpoint

    model, loss, train_set, _, held_out = setup()
    run = hg.Recording(path, model, loss, train_set)
    scores = hg.attribute(run, hg.mean_loss(held_out["validation"]), curvature="ggn")
    suspects = hg.suspects(run, scores)
    found_share = (suspects["sample"].head(50) < 50).mean()
    print(
        f"{len(run.steps)} steps of {run.manifest.processes} processes, repeated to {scores.evidence.replay_drift:.0e}"
    )
    print(f"{found_share:.0%} of the 50 most suspect samples have one of the 50 wrong labels")
    assert run.completed and found_share > 0.5
