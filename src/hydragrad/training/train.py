"""`train`: our own loop with a Recorder in it."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from hydragrad.derivatives import PerSampleLoss
from hydragrad.errors import DiskFull, RecordingMismatch, RunExists
from hydragrad.recording import Recorder, StepObserver
from hydragrad.replay import Recording, require_map_style
from hydragrad.replay.data import Collate
from hydragrad.runs.lines import AppendOnlyLines, read_lines
from hydragrad.runs.manifest import FILE as MANIFEST
from hydragrad.runs.manifest import read_manifest
from hydragrad.runs.steps import read_steps
from hydragrad.training.loop import EpochLog, Monitor, Plan, fit
from hydragrad.training.probe import require_labels_in_range

EPOCHS = "epochs.jsonl"


def train(
    model: nn.Module,
    loss: PerSampleLoss,
    train_set: Dataset[Any],
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int,
    out: str | Path,
    scheduler: Any = None,
    scheduler_every: Literal["epoch", "step"] = "epoch",
    monitor: Monitor | None = None,
    scheduler_metric: str | Sequence[str] | None = None,
    observers: Sequence[StepObserver] = (),
    seed: int = 0,
    checkpoint_every: int | None = None,
    collate: Collate | None = None,
    about: dict[str, Any] | None = None,
    progress: str = "training",
    resume: bool = False,
) -> Recording:
    """Train and record.

    Args:
        model: Is trained in place.
        loss: `loss(model, batch)`: per-sample losses, shape (batch,); a step goes down their mean.
        train_set: Map-style data set. Random augmentation in its `__getitem__` draws from a recorded seed.
        optimizer: torch.optim.SGD, with any of its options.
        epochs: Passes over the data, each in an order of its own.
        batch_size: Samples a step; the last batch of an epoch may be smaller.
        out: Run directory, made if it is not there.
        scheduler: Any torch scheduler.
        scheduler_every: When it steps.
        monitor: `monitor(model)` measures the model (in eval mode) once an epoch; its entries are logged.
        scheduler_metric: Entry of the epoch's log that ReduceLROnPlateau gets: a name of the monitor's, or
            `train_loss`, or several to be added ("train_loss + validation_loss").
        observers: Further step observers, each already entered.
        seed: Order of the samples and the randomness of the steps; the same seed gives the same run.
        checkpoint_every: Steps between checkpoints; by default 1.5 times the square root of all steps.
        collate: Makes a batch of a list of items, where torch's default won't do.
        about: Entries for the manifest.
        progress: What the progress bar says is being done.
        resume: Go on with the run in `out` where it was killed, or start one; ends at the same bits.

    Returns:
        The recording of the whole run.

    Raises:
        RunExists: `out` holds a run and `resume` is not set.
        RecordingMismatch: `resume` with another model, data set, seed or batch size.
        Unsupported: Another optimizer than SGD, half precision.
        DataError: Empty or non-finite data, labels out of range.
        NonFinite: The loss became NaN.
        DiskFull: The checkpoints would not fit, computed before the first step.
    """
    require_map_style(train_set)
    plan = Plan(
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        scheduler=scheduler,
        scheduler_every=scheduler_every,
        scheduler_metric=scheduler_metric,
        monitor=monitor,
        collate=collate,
        progress=progress,
    )
    path, length = Path(out), len(train_set)  # type: ignore[arg-type]
    every = checkpoint_distance(plan.steps(length)) if checkpoint_every is None else checkpoint_every
    recorder = Recorder(
        path,
        model,
        optimizer,
        loss,
        train_set,
        scheduler=scheduler,
        checkpoint_every=every,
        collate=collate,
        seed=seed,
        about={"epochs": epochs, "batch_size": batch_size} | (about or {}),
        resume=resume,
    )
    require_labels_in_range(model, loss, train_set, min(batch_size, length), collate)
    _require_disk(path, forecast_bytes(model, length, plan, every))
    if (path / EPOCHS).exists() and (path / EPOCHS).stat().st_size and not resume:
        raise RunExists(
            f"{path} already holds a run ({EPOCHS}). Choose another directory, delete it, or go on with it: "
            f"resume=True (--resume)."
        )
    if resume and (path / MANIFEST).exists():
        _require_same_batches(path, batch_size)
    with recorder:
        begun, kept = _begun(path, recorder.next_step, plan.steps_per_epoch(length))
        log = AppendOnlyLines(path / EPOCHS, keep=kept)

        def on_epoch(epoch: int, entries: dict[str, float]) -> None:
            log.append({"epoch": epoch} | entries)
            log.sync()  # the checkpoints after it say that the epoch's end is done, and must not outlive it

        try:
            fit(
                model,
                loss,
                train_set,
                optimizer,
                plan,
                observers=[recorder, *observers],
                next_step=recorder.next_step,
                first_epoch=kept,
                begun=begun,
                on_epoch=on_epoch,
            )
        finally:
            log.close()
            if recorder.next_step == 0:
                (path / EPOCHS).unlink()
    return Recording(path, model, loss, train_set, collate=collate, fingerprint=recorder.fingerprint)


def checkpoint_distance(steps: int) -> int:
    """Steps between checkpoints by default: at the start of each stretch, a step is replayed while recording."""
    return math.ceil(1.5 * math.sqrt(steps))


def epoch_logs(path: Path) -> list[dict[str, Any]]:
    """What was logged once an epoch: `epoch`, `train_loss`, `lr` and the monitor's entries."""
    return read_lines(path / EPOCHS, "epoch logs") if (path / EPOCHS).exists() else []


def forecast_bytes(model: nn.Module, length: int, plan: Plan, checkpoint_every: int) -> int:
    """Size of the run directory, roughly."""
    state = 2 * sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers()) + 32_768
    checkpoints = plan.steps(length) // checkpoint_every + 2
    digits = len(str(length)) + 2
    return checkpoints * state + plan.steps(length) * 150 + plan.epochs * length * digits


def _require_disk(path: Path, needed: int) -> None:
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFull(
            28,
            f"The run directory will take about {needed / 2**20:,.0f} MiB and {existing} has {free / 2**20:,.0f} MiB "
            f"free. Free some space, or keep fewer checkpoints (checkpoint_every)",
        )


def _require_same_batches(path: Path, batch_size: int) -> None:
    recorded = read_manifest(path).about.get("batch_size")
    if recorded != batch_size:
        raise RecordingMismatch(
            f"{path} was recorded with batch_size={recorded}, not {batch_size}. Go on with what it was recorded with."
        )


def _begun(path: Path, next_step: int, per_epoch: int) -> tuple[EpochLog, int]:
    """The losses of the unfinished epoch, and how many epochs are finished, when going on at `next_step`.

    An epoch whose steps are all done but whose end (monitor, scheduler) was interrupted is unfinished.
    """
    finished = min(len(epoch_logs(path)), next_step // per_epoch)
    tally = EpochLog()
    if next_step:
        for record in read_steps(path, read_manifest(path))[finished * per_epoch : next_step]:
            assert record.loss is not None
            tally.add(record.loss, len(record.indices))
    return tally, finished
