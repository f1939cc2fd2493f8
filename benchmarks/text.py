"""The cost of recording a small GPT and of every kind of attribution, as ratios to plain training.

The GPT of `--model gpt` (two layers of width 64, 65 characters, blocks of 64; 0.1 million parameters), AdamW with
clipping, 32 sequences a step, one thread. Random characters: the cost is that of any text. Every measurement runs in a
process of its own, between two halves of a plain training; the kinds take turns, and ratios of processor time are
medians over the repeats. For another size: `python -m benchmarks.text SEQUENCES REPEATS`.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.models import GPT

VOCABULARY, LENGTH, BATCH, EPOCHS = 65, 64, 32, 2
KINDS = ("recording", "none", "ggn", "hessian")


def loss(model: Any, batch: Any) -> Tensor:
    """Mean cross-entropy of every sequence."""
    tokens, following = batch
    return F.cross_entropy(model(tokens).transpose(1, 2), following, reduction="none").mean(1)


def data(sequences: int) -> TensorDataset:
    """Random characters, each with the next one."""
    tokens = torch.randint(VOCABULARY, (sequences, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    return TensorDataset(tokens[:, :-1], tokens[:, 1:])


def fresh() -> tuple[GPT, torch.optim.AdamW]:
    """Model and optimizer."""
    torch.manual_seed(0)
    model = GPT(vocabulary=VOCABULARY, block_size=LENGTH)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)


def plain(train_set: TensorDataset) -> float:
    """One epoch of a plain PyTorch loop; returns seconds of processor time."""
    (tokens, following), (model, optimizer) = train_set.tensors, fresh()
    begin = time.process_time()
    for indices in torch.randperm(len(tokens)).split(BATCH):
        optimizer.zero_grad()
        loss(model, (tokens[indices], following[indices])).mean().backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return time.process_time() - begin


def measure(sequences: int, repeats: int) -> None:
    """Run everything and print the table."""
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for kind in KINDS:
                results[kind].append(_in_own_process(kind, sequences, Path(folder) / f"run{repeat}"))
                print(f"repeat {repeat + 1}: {kind}: {results[kind][-1]}", file=sys.stderr, flush=True)
    trainings = [result["plain"] for rows in results.values() for result in rows]
    speed = EPOCHS * sequences * LENGTH / statistics.median(trainings)
    print(f"{sequences:,} sequences of {LENGTH}, {EPOCHS} epochs, {repeats} repeats; plain: {speed:,.0f} tokens/s\n")
    print(f"{'':12} {'x plain':>8} {'spread':>14} {'tokens/s':>9} {'peak MiB':>9}")
    for kind, rows in results.items():
        ratios = [row["seconds"] / row["plain"] for row in rows]
        ratio, spread = statistics.median(ratios), f"{min(ratios):.2f} - {max(ratios):.2f}"
        print(f"{kind:12} {ratio:8.2f} {spread:>14} {speed / ratio:9,.0f} {max(row['peak'] for row in rows):9,.0f}")


def _one(kind: str, sequences: str, run: str) -> None:
    torch.set_num_threads(1)
    train_set = data(int(sequences))
    before, begin = plain(train_set), time.process_time()
    if kind == "recording":
        options = {"epochs": EPOCHS, "batch_size": BATCH, "clip_norm": 1.0}
        hg.train(*_with(train_set), out=run, **options)  # type: ignore[arg-type]
    else:
        opened = hg.Recording(run, fresh()[0], loss, train_set)
        query = hg.mean_loss(TensorDataset(*(part[:BATCH] for part in train_set.tensors)))
        hg.attribute(opened, query, curvature=kind)  # type: ignore[arg-type]
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    after = plain(train_set)
    print(json.dumps({"seconds": seconds, "plain": EPOCHS * (before + after) / 2, "peak": peak}))


def _with(train_set: TensorDataset) -> tuple[Any, ...]:
    model, optimizer = fresh()
    return model, loss, train_set, optimizer


def _in_own_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.text", *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _one(*sys.argv[1:])
    else:
        sizes = [int(argument) for argument in sys.argv[1:]]
        measure(*(sizes + [1024, 3][len(sizes) :]))
