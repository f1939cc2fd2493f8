"""Peak memory of derivatives of a language model with a large vocabulary: all logits at once, or in chunks.

A GPT of two layers and a vocabulary of 50,000; eight sequences of 64 tokens a step, AdamW, one thread. Every
measurement runs in a process of its own; what the process takes before its job (torch, model, data) is subtracted.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.models import GPT

VOCABULARY, LENGTH, BATCH, STEPS = 50_000, 64, 8, 2
CURVATURES = ("none", "ggn", "hessian")
WAYS = ("whole", "chunks")


def whole(model: Any, batch: Any) -> Tensor:
    """Mean cross-entropy of every sequence, from the logits of all positions."""
    tokens, following = batch
    return F.cross_entropy(model(tokens).transpose(1, 2), following, reduction="none").mean(1)


def chunks(model: Any, batch: Any) -> Tensor:
    """The same, a few positions at a time."""
    tokens, following = batch
    return hg.chunked_cross_entropy(model(tokens, head=False), model.head.weight, following).mean(1)


LOSSES = {"whole": whole, "chunks": chunks}


def measure() -> None:
    """Print the table."""
    logits = BATCH * LENGTH * VOCABULARY * 4 / 2**20
    print(f"vocabulary {VOCABULARY:,}, {BATCH * LENGTH:,} positions a step: their logits take {logits:.0f} MiB\n")
    print(f"{'':12} {'whole, MiB':>11} {'chunks, MiB':>12} {'whole, s':>9} {'chunks, s':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for job in ("training", *CURVATURES):
            results = {way: _in_own_process(way, job, Path(folder) / way) for way in WAYS}
            mib = [results[way]["peak_mib"] for way in WAYS]
            seconds = [results[way]["processor"] for way in WAYS]
            print(f"{job:12} {mib[0]:11,.0f} {mib[1]:12,.0f} {seconds[0]:9.1f} {seconds[1]:10.1f}", flush=True)


def _data() -> TensorDataset:
    tokens = torch.randint(VOCABULARY, (BATCH * STEPS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    return TensorDataset(tokens[:, :-1], tokens[:, 1:])


def _model() -> GPT:
    torch.manual_seed(0)
    return GPT(vocabulary=VOCABULARY, block_size=LENGTH)


def _one(way: str, job: str, run: str) -> None:
    torch.set_num_threads(1)
    data, model, loss = _data(), _model(), LOSSES[way]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    if job == "training":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        hg.train(model, loss, data, optimizer, epochs=1, batch_size=BATCH, out=run)
    else:
        query = hg.mean_loss(TensorDataset(*(part[:BATCH] for part in data.tensors)))
        hg.attribute(hg.Recording(run, model, loss, data), query, curvature=job)  # type: ignore[arg-type]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"peak_mib": peak, "processor": time.process_time() - begin}))


def _in_own_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.vocabulary", *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


if __name__ == "__main__":
    if sys.argv[1:]:
        _one(*sys.argv[1:])
    else:
        measure()
