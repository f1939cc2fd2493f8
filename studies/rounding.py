"""Other machines: how far their rounding takes a replay, next to what is expected of it, and how far faults jump.

Another machine is stood in for by what is at hand: torch's kernels without vector instructions, convolutions without
oneDNN, two threads. A run is recorded there, in a process of its own, and replayed here; no difference may be larger
than what rounding explains. Faults begin at one step of the replay, on kernels other than the recording's.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.cli.console import columns, write_json
from hydragrad.cli.options import Json, Quiet
from hydragrad.derivatives import Batch
from hydragrad.models import LeNet5
from hydragrad.progress import bar, quiet
from hydragrad.replay.backend import backend
from hydragrad.replay.differences import relative
from hydragrad.replay.rounding import Followers, Seen, unit_of_rounding
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord
from hydragrad.runs.manifest import read_manifest, write_manifest
from studies.rows import append_rows, saved_rows

SAMPLES, CLASSES, BATCH_SIZE = 1000, 10, 25
PER_EPOCH = SAMPLES // BATCH_SIZE
TOKENS, LENGTH = 64, 16
ROWS_FILE = "rounding.jsonl"

Settings = dict[str, str]
MACHINES: dict[str, Settings] = {
    "no vector instructions": {"ATEN_CPU_CAPABILITY": "default"},
    "no oneDNN": {"STUDY_MKLDNN": "0"},
    "two threads": {"STUDY_THREADS": "2"},
    "all of these": {"ATEN_CPU_CAPABILITY": "default", "STUDY_MKLDNN": "0", "STUDY_THREADS": "2"},
}
"""Environment of the process that records."""
FAULTY_ON = "no vector instructions"


class Fault(NamedTuple):
    """What is other about a step, from the step where faults begin.

    Attributes:
        factor: Of the gradient, not of the loss: below 1 as clipping has it.
        smoothing: Of labels.
        labels: So many samples have other labels.
        exchanged: So many samples of the first batch are others.
        once: Only at the first step.
    """

    factor: float = 1.0
    smoothing: float = 0.0
    labels: int = 0
    exchanged: int = 0
    once: bool = False


FAULTS = {
    "20 of 1,000 labels": Fault(labels=20),
    "one label": Fault(labels=1),
    "one sample exchanged": Fault(exchanged=1),
    "clipped to 0.9 once": Fault(factor=0.9, once=True),
    "rate 1 % off": Fault(factor=0.99),
    "rate 1 % off once": Fault(factor=0.99, once=True),
    "label smoothing 0.1": Fault(smoothing=0.1),
}


class Transformer(nn.Module):
    """Two layers over sequences; the gradient of its keys' bias is nothing but rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, 32), nn.Parameter(0.02 * torch.randn(LENGTH, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of sequences of tokens."""
        result: Tensor = self.head(self.layers(self.tokens(x) + self.places).mean(1))
        return result


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def _batch_norm() -> nn.Module:
    def block(channels: int, out: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU()]

    return nn.Sequential(*block(1, 8), *block(8, 16), *block(16, 16), nn.Flatten(), nn.Linear(256, CLASSES))


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


class Subject(NamedTuple):
    """A network and its optimizer."""

    build: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    dtype: torch.dtype = torch.float32


SUBJECTS = {
    "MLP, SGD": Subject(_mlp, _sgd),
    "MLP, SGD, float64": Subject(_mlp, _sgd, torch.float64),
    "MLP, AdamW": Subject(_mlp, _adamw),
    "LeNet-5, SGD": Subject(LeNet5, _sgd),
    "LeNet-5, AdamW": Subject(LeNet5, _adamw),
    "BatchNorm, SGD": Subject(_batch_norm, _sgd),
    "BatchNorm, AdamW": Subject(_batch_norm, _adamw),
    "transformer, SGD": Subject(Transformer, _sgd),
    "transformer, AdamW": Subject(Transformer, _adamw),
}


@dataclass(frozen=True, kw_only=True)
class RoundingRow:
    """One subject on one machine, with one fault or none.

    Attributes:
        steps: Between checkpoints.
        state: Largest relative difference of the number over the state; with a fault, at the step where it begins.
        state_share: The largest share of what is expected; with a fault, at that step.
        loss_share: The same of losses.
        parts_share: The same of weights, buffers and optimizer states at the end; 0 with a fault.
        noticed: After how many steps a fault is beyond what is expected of states or losses; -1: not at all.
    """

    subject: str
    machine: str
    fault: str
    steps: int
    state: float
    state_share: float
    loss_share: float
    parts_share: float
    noticed: int


def data_of(subject: Subject, *, tokens: bool) -> TensorDataset:
    """Classes around prototypes, as far apart as noise is large; NumPy's, since torch's normal numbers round, too."""
    generator = np.random.default_rng(1)
    y = generator.integers(CLASSES, size=SAMPLES)
    if tokens:
        kinds, noise = (
            generator.integers(TOKENS, size=(CLASSES, LENGTH)),
            generator.integers(TOKENS, size=(SAMPLES, LENGTH)),
        )
        x = np.where(generator.random((SAMPLES, LENGTH)) < 0.5, kinds[y], noise)
        return TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    x = 0.3 * generator.standard_normal((CLASSES, 1, 32, 32))[y] + generator.standard_normal((SAMPLES, 1, 32, 32))
    return TensorDataset(torch.from_numpy(x).to(subject.dtype), torch.from_numpy(y))


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy, one number a sample; a batch may carry a fault's label smoothing and factor."""
    x, y, *fault = batch
    smoothing, factor = fault or (0.0, 1.0)
    losses = F.cross_entropy(model(x), y, reduction="none", label_smoothing=smoothing)
    return losses if factor == 1 else factor * losses + (1 - factor) * losses.detach()


def record(name: str, path: str, steps: int) -> None:
    """Record a subject with the kernels of this process; one segment."""
    torch.set_num_threads(int(os.environ.get("STUDY_THREADS", "1")))
    torch.manual_seed(0)
    subject = SUBJECTS[name]
    model = subject.build().to(subject.dtype)
    optimizer, data = subject.optimizer(model), data_of(subject, tokens="transformer" in name)
    generator = torch.Generator().manual_seed(2)
    order = torch.cat([torch.randperm(SAMPLES, generator=generator) for _ in range(-(-steps // PER_EPOCH))])
    with (
        backend({"mkldnn": os.environ.get("STUDY_MKLDNN", "1") == "1"}),
        hg.Recorder(Path(path), model, optimizer, loss, data, checkpoint_every=steps) as recorder,
    ):
        for indices in order.split(BATCH_SIZE)[:steps]:
            batch = data[indices]
            with recorder.step(indices, batch) as step:
                optimizer.zero_grad()
                value = loss(model, batch).mean()
                value.backward()
                optimizer.step()
                step.loss = value.item()


def recorded_on(machine: str, name: str, path: Path, steps: int) -> hg.Recording:
    """The run of a subject, recorded by a process of its own, opened with the kernels of this one."""
    if not (path / "manifest.json").exists() or read_manifest(path).status != "completed":
        call = f"from studies.rounding import record; record({name!r}, {str(path)!r}, {steps})"
        there = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | MACHINES[machine]
        subprocess.run([sys.executable, "-c", call], check=True, env=there)
        manifest = read_manifest(path)
        as_here = {"threads": 1, "backend": manifest.machine["backend"] | {"mkldnn": True}}
        write_manifest(path, replace(manifest, machine=manifest.machine | as_here | {"processor": machine}))
    subject = SUBJECTS[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This is not the machine of the recording")
        model = subject.build().to(subject.dtype)
        return hg.Recording(path, model, loss, data_of(subject, tokens="transformer" in name))


class Faulty:
    """A run whose batches carry a fault from a step on."""

    def __init__(self, run: hg.Recording, fault: Fault, begins: int) -> None:
        self._run, self._fault, self._begins = run, fault, begins
        self.steps: Sequence[StepRecord] = run.steps
        # The first of the wrong labels is of a sample of the first step.
        first = run.steps[begins].indices
        self._wrong = (
            {first[0], *[i for i in range(SAMPLES) if i not in first][: fault.labels - 1]} if fault.labels else set()
        )

    def checkpoint(self, step: int) -> Checkpoint:
        """The recorded one."""
        return self._run.checkpoint(step)

    def batches(self, record: StepRecord) -> list[Batch]:
        """The step's data, with the fault."""
        batches = self._run.batches(record)
        if record.step < self._begins or (self._fault.once and record.step > self._begins):
            return batches
        (batch,) = batches
        x, y = (tensor.clone() for tensor in batch.data)
        for place, index in enumerate(record.indices):
            if index in self._wrong:
                y[place] = (y[place] + 1) % CLASSES
        if self._fault.exchanged and record.step == self._begins:
            x[0], y[0] = self._run.train_set[self._run.steps[self._begins + 1].indices[0]]
        return [batch._replace(data=[x, y, self._fault.smoothing, self._fault.factor])]


def measure(run: hg.Recording, fault: Fault | None, begins: int) -> dict[str, Any]:
    """Follow a run to its end, or up to where a fault is noticed; the measurements of its row."""
    faulty = Faulty(run, fault or Fault(), begins)
    largest, shares, parts = 0.0, Seen(0.0, 0.0), 0.0
    with run.replay() as replay:
        trajectory = replay.trajectory
        unit = unit_of_rounding(trajectory.parameters.values(), [])
        followers = Followers(faulty, lambda: Trajectory(run.model, run.loss, run.rules), unit)
        trajectory.restore(run.initial)
        for record in run.steps:
            trajectory.advance(record, faulty.batches(record))
            drift = relative(trajectory.state_number(), record.state)
            apart, explained = followers.at_step(0, record.step, trajectory.state_number())
            share = Seen(apart.state / explained.state, apart.loss / explained.loss)
            if fault is None:
                largest, shares = max(largest, drift), shares.largest(share)
                continue
            if record.step == begins:
                largest, shares = drift, share
            if record.step >= begins and max(share) > 1:
                return _row(largest, shares, parts, record.step - begins)
        if fault is None:
            at_end, explained_at_end = followers.at_checkpoint(0, run.final)
            parts = max(value / explained_at_end[part] for part, value in at_end.items())
    return _row(largest, shares, parts, -1)


def _row(state: float, shares: Seen, parts: float, noticed: int) -> dict[str, Any]:
    return {
        "state": state,
        "state_share": shares.state,
        "loss_share": shares.loss,
        "parts_share": parts,
        "noticed": noticed,
    }


def reproduce_rounding(
    out: Path, *, steps: int, subjects: Sequence[str] = tuple(SUBJECTS), faults: Sequence[str] = tuple(FAULTS)
) -> list[RoundingRow]:
    """Measure every subject on every machine, and every fault on one; runs and rows in `out` are reused.

    Args:
        out: Folder for runs and rows.
        steps: Between checkpoints; faults begin at a half.
        subjects: Names in SUBJECTS.
        faults: Names in FAULTS.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / ROWS_FILE
    wanted = [(name, machine, "") for name in subjects for machine in MACHINES]
    wanted += [(name, FAULTY_ON, fault) for name in subjects for fault in faults]
    rows = {(row.subject, row.machine, row.fault): row for row in saved_rows(RoundingRow, file) if row.steps == steps}
    missing = [key for key in wanted if key not in rows]
    with bar("replays", len(missing), unit="replays") as progress:
        for name, machine, fault in missing:
            run = recorded_on(machine, name, out / f"{name} on {machine} {steps}".replace(" ", "-"), steps)
            values = measure(run, FAULTS.get(fault), steps // 2)
            row = RoundingRow(subject=name, machine=machine, fault=fault, steps=steps, **values)
            append_rows(file, [row])
            rows[name, machine, fault] = row
            progress.advance()
    return [rows[key] for key in wanted]


def rounding(
    steps: Annotated[int, typer.Option(min=4, help="Steps between checkpoints.")] = 400,
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/rounding"),
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """What another machine's rounding does to a replay, and how far faults are beyond it.

    Shares are of what a replay may differ: below 1 it is accepted, above 1 refused. Some 15 minutes of processor time.

    Example: python -m studies rounding --steps 400
    """
    with quiet(silent):
        rows = reproduce_rounding(out, steps=steps)
    clean = [row for row in rows if not row.fault]
    lines = []
    for subject in SUBJECTS:
        own = [row for row in clean if row.subject == subject]
        most = [
            max(getattr(row, name) for row in own) for name in ("state", "state_share", "loss_share", "parts_share")
        ]
        lines.append([subject, f"{most[0]:.1e}", *(f"{value:.2f}" for value in most[1:])])
    columns(
        f"Rounding of {len(MACHINES)} other machines, {steps} steps from a checkpoint",
        ["", "state apart", "share", "of losses", "of a checkpoint"],
        lines,
        left=[""],
    )
    lines = []
    for fault in FAULTS:
        own = [row for row in rows if row.fault == fault]
        lines.append(
            [
                fault,
                f"{min(row.state_share for row in own):.2g}",
                f"{min(row.loss_share for row in own):.2g}",
                f"{sum(row.noticed == 0 for row in own)}",
                f"{sum(row.noticed >= 0 for row in own)} of {len(own)}",
            ]
        )
    columns(
        f"Faults that begin {steps // 2} steps from a checkpoint",
        ["", "least share", "of losses", "refused at once", "refused"],
        lines,
        left=[""],
    )
    write_json(json, {"rows": [vars(row) for row in rows]})
