"""Tiny runs, and what is done with them. Every task takes a folder, resumes what it finds there, returns a digest."""

import hashlib
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

import hydragrad as hg
from hydragrad.attribution import partial
from hydragrad.training.train import epoch_logs

SAMPLES, CLASSES, BATCH_SIZE, EPOCHS = 22, 3, 5, 4

Task = Callable[[Path], str]


def data(length: int = SAMPLES) -> TensorDataset:
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(length, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(CLASSES, (length,), generator=generator))


TRAIN_SET, HELD_OUT = data(), data(6)


def build() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, CLASSES)).double()


_calls_left = [-1]


def loss(model: Any, batch: Any) -> Tensor:
    if _calls_left[0] == 0:
        raise KeyboardInterrupt
    _calls_left[0] -= 1
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.1, momentum=0.8)


def query() -> hg.scores.Query:
    return hg.mean_loss(HELD_OUT)


def digest(*parts: Any) -> str:
    """A digest of tensors, arrays, numbers and text."""
    content = hashlib.sha256()
    for part in parts:
        tensor = torch.as_tensor(part) if hasattr(part, "__array__") else None
        raw = repr(part).encode() if tensor is None else tensor.detach().contiguous().numpy().tobytes()
        content.update(len(raw).to_bytes(8, "little") + raw)
    return content.hexdigest()


def of_run(run: hg.Recording) -> str:
    parameters = [tensor for _, tensor in sorted(run.final.parameters.items())]
    return digest(*parameters, [record.state for record in run.steps], run.completed)


def opened(folder: Path) -> hg.Recording:
    return hg.Recording(folder, build(), loss, TRAIN_SET)


def train(folder: Path, checkpoint_every: int = 6) -> str:
    model = build()
    options: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "checkpoint_every": checkpoint_every}
    optimizer = sgd(model)
    scheduler = StepLR(optimizer, 1, gamma=0.9)
    run = hg.train(model, loss, TRAIN_SET, optimizer, out=folder / "run", scheduler=scheduler, resume=True, **options)
    return digest(of_run(run), epoch_logs(run.path))


def train_by_epochs(folder: Path) -> str:
    """Checkpoints where epochs end."""
    return train(folder, -(-SAMPLES // BATCH_SIZE))


def record(folder: Path, *, stored: bool = False) -> str:
    """A user's own loop."""
    torch.manual_seed(3)
    model, optimizer = (built := build()), sgd(built)
    loader = DataLoader(TRAIN_SET, BATCH_SIZE, shuffle=True)
    every: dict[str, Any] = {"checkpoint_every": 6, "store_batches": stored, "resume": True}
    with hg.Recorder(folder / "run", model, optimizer, loss, TRAIN_SET, **every) as recorder:
        for _ in range(recorder.next_step // len(loader), EPOCHS):
            for indices, batch in hg.indexed(loader, recorder=recorder):
                with recorder.step(indices, batch):
                    optimizer.zero_grad()
                    loss(model, batch).mean().backward()
                    optimizer.step()
    return of_run(opened(folder / "run"))


def record_with_batches(folder: Path) -> str:
    return record(folder, stored=True)


def track(folder: Path) -> str:
    """A loop without a record; it starts again at its first step."""
    model = build()
    optimizer = sgd(model)
    generator = torch.Generator().manual_seed(5)
    with hg.Tracker(
        model, optimizer, loss, TRAIN_SET, samples=range(12), store=folder / "store", resume=True
    ) as tracker:
        for _ in range(14):
            indices = torch.randperm(SAMPLES, generator=generator)[:BATCH_SIZE].tolist()
            batch = [tensor[indices] for tensor in TRAIN_SET.tensors]
            with tracker.step(indices, batch):
                optimizer.zero_grad()
                loss(model, batch).mean().backward()
                optimizer.step()
    return of_store(tracker.store)


def of_store(store: hg.Store) -> str:
    scores = store.contributions(query())
    assert isinstance(scores, hg.Scores)
    return digest(scores.values, store.rows, store.sample_ids, store.facts)


def open_store(folder: Path) -> str:
    return of_store(hg.Store.open(folder / "store", build(), loss))


def fill(folder: Path) -> str:
    """A store of a recorded run; a finished one is opened."""
    if (folder / "store" / "store.json").exists():
        return open_store(folder)
    return of_store(hg.hypergradients(opened(folder / "run"), samples=range(12), store=folder / "store"))


def attributing(**options: Any) -> Task:
    def attribute(folder: Path) -> str:
        partial.SAVE_EVERY_SECONDS = 0.0  # there is something to resume after every segment
        scores = hg.attribute(opened(folder / "run"), query(), **options)
        return digest(scores.values, scores.query_values, scores.sample_ids)

    return attribute


def leave_out(folder: Path) -> str:
    real = hg.counterfactual(opened(folder / "run"), [[0], [1, 2], [3]], query())
    return digest(real.values, real.query_values, real.groups)


def clean(folder: Path) -> str:
    """Contributions, then suspects, whose signals are saved with the run."""
    run = opened(folder / "run")
    scores = hg.attribute(run, query())
    frame = hg.suspects(run, scores, held_out=query())
    return digest(frame.to_csv())


def both_curvatures(folder: Path) -> str:
    return digest(of_run(opened(folder / "run")), attributing()(folder), attributing(curvature="hessian")(folder))


def both_caches(folder: Path) -> str:
    return digest(leave_out(folder), clean(folder))


def interrupted(task: Task, calls: int) -> Task:
    """A task that ends at a call of the loss as by Ctrl-C."""

    def begin(folder: Path) -> str:
        _calls_left[0] = calls
        try:
            return task(folder)
        except KeyboardInterrupt:
            return "interrupted"

    return begin


def save_scores(folder: Path) -> str:
    for name, length in (("a", 6), ("b", 7)):
        scores = hg.attribute(opened(folder / "run"), hg.mean_loss(data(length)))
        scores.save(folder / f"{name}.safetensors")
    return ""


def load_scores(folder: Path) -> str:
    scores = [hg.Scores.load(folder / name) for name in ("a.safetensors", "b.safetensors")]
    return digest(*(part for each in scores for part in (each.values, each.sample_ids, each.query_values)), scores)


def silently(task: Task, folder: Path) -> tuple[str, list[str]]:
    """A task's digest, and the warnings that it gave."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        result = task(folder)
    return result, sorted({str(warning.message).replace(str(folder), "") for warning in given})


def warm_up() -> None:
    """Do every kind of work once, so that the processes forked from here import nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for task in (train, both_curvatures, both_caches, fill):
            silently(task, Path(folder))
