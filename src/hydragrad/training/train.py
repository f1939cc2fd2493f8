"""`train`: our own loop with a Recorder in it."""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

from hydragrad.derivatives import PerSampleLoss, bare_model, copy_of
from hydragrad.errors import DataError, DiskFull, RecordingMismatch, RunDamaged, RunExists
from hydragrad.recording import Recorder, StepObserver
from hydragrad.recording.batch_of_one import require_batch_of_one
from hydragrad.recording.data_parallel import require_one_process
from hydragrad.replay import Recording, require_map_style
from hydragrad.replay.data import Collate
from hydragrad.runs.checkpoints import CheckpointFolder
from hydragrad.runs.lines import AppendOnlyLines, read_lines
from hydragrad.runs.manifest import FILE as MANIFEST
from hydragrad.runs.manifest import read_manifest
from hydragrad.runs.steps import read_steps
from hydragrad.steps import states_of
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.training.loop import EpochLog, Monitor, Plan, fit
from hydragrad.training.probe import require_labels_in_range

EPOCHS = "epochs.jsonl"


@in_clean_surroundings
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
    clip_norm: float | None = None,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    averages: Mapping[str, AveragedModel] | None = None,
    drop_last: bool = False,
    seed: int = 0,
    checkpoint_every: int | None = None,
    collate: Collate | None = None,
    about: dict[str, Any] | None = None,
    progress: str = "training",
    resume: bool = False,
) -> Recording:
    """Train a model and record the run.

    Args:
        model: Is trained in place.
        loss: `loss(model, batch)`: per-sample losses, shape (batch,); a step descends their mean.
        train_set: Map-style data set. Random augmentation in its `__getitem__` draws from a recorded seed.
        optimizer: One of torch.optim that has a rule here, with any of its options; see the documentation's table.
        epochs: Passes over the data, each in an order of its own.
        batch_size: Samples of a batch; the last one of an epoch may be smaller.
        out: Run directory; made if it does not exist.
        scheduler: Any torch scheduler.
        scheduler_every: When it steps.
        monitor: `monitor(model)` measures the model (in eval mode) once per epoch; its entries are logged.
        scheduler_metric: Entry of the epoch's log that ReduceLROnPlateau gets: one of the monitor's, `train_loss`,
            or several to be added ("train_loss + validation_loss").
        observers: Further step observers, already entered.
        clip_norm: Clip the gradient of every step to this L2 norm.
        accumulate: Batches of a step, whose gradient is that of the mean over all their samples.
        autocast: `torch.bfloat16` runs forward passes under autocast; derivatives are taken in the weights' own type.
        averages: torch.optim.swa_utils.AveragedModel by name, updated after every step; `run.averaged(name)` asks about
            them in place of the trained weights.
        drop_last: Leave out an epoch's last batch where it is smaller.
        seed: Order of the samples and the randomness of the steps; the same seed gives the same run.
        checkpoint_every: Steps between checkpoints; by default 1.5 times the square root of all steps.
        collate: Makes a batch of a list of items; torch's default if None.
        about: Entries for the manifest.
        progress: Title of the progress bar.
        resume: Resume the run in `out` where it was killed, or start a new one; the results are equal to the bit.

    Returns:
        The recording of the whole run.

    Raises:
        RunExists: `out` holds a run and `resume` is not set.
        RecordingMismatch: `resume` with another model, data set, seed or batch size.
        Unsupported: An optimizer without a rule, half-precision weights, several processes.
        DataError: Empty or non-finite data, labels out of range.
        NonFinite: The loss became NaN.
        DiskFull: The checkpoints would not fit; raised before the first step.
    """
    require_map_style(train_set)
    require_one_process(model, "hg.train", "Write the loop yourself, with a DistributedSampler and hg.Recorder.")
    model = bare_model(model)
    plan = Plan(
        epochs=epochs,
        batch_size=batch_size,
        drop_last=drop_last,
        accumulate=accumulate,
        clip_norm=clip_norm,
        autocast=autocast,
        averages=tuple((averages or {}).values()),
        seed=seed,
        scheduler=scheduler,
        scheduler_every=scheduler_every,
        scheduler_metric=scheduler_metric,
        monitor=monitor,
        collate=collate,
        progress=progress,
    )
    path, length = Path(out).absolute(), len(train_set)  # type: ignore[arg-type]
    if plan.steps(length) == 0:
        raise DataError(
            f"An epoch needs at least one batch of {batch_size} samples where drop_last=True, and the training set has "
            f"{length}. Lower batch_size."
        )
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
        averages=averages,
        seed=seed,
        about={"epochs": epochs} | _plan_entries(plan) | (about or {}),
        resume=resume,
    )
    require_labels_in_range(model, loss, train_set, min(batch_size, length), collate)
    if plan.last_batch(length) == 1:
        require_batch_of_one(copy_of(model).train(), loss, train_set, collate)
    _require_disk(path, forecast_bytes(model, optimizer, length, plan, every))
    if (path / EPOCHS).exists() and (path / EPOCHS).stat().st_size and not resume:
        raise RunExists(
            f"{path} already holds a run ({EPOCHS}). Choose another directory, delete it, or resume the run with "
            f"resume=True (--resume)."
        )
    if resume and (path / MANIFEST).exists():
        _require_same_plan(path, plan)
    with recorder:
        unfinished_epoch, finished_epochs = _progress(
            path, recorder.next_step, plan.steps_per_epoch(length), scheduler_every
        )
        log = AppendOnlyLines(path / EPOCHS, keep=finished_epochs)

        def on_epoch(epoch: int, entries: dict[str, float]) -> None:
            log.append({"epoch": epoch} | entries)
            log.sync()  # later checkpoints count the epoch as finished, so its line must be on disk before them

        try:
            fit(
                model,
                loss,
                train_set,
                optimizer,
                plan,
                observers=[recorder, *observers],
                next_step=recorder.next_step,
                first_epoch=finished_epochs,
                unfinished_epoch=unfinished_epoch,
                on_epoch=on_epoch,
            )
        finally:
            log.close()
            if recorder.next_step == 0:
                (path / EPOCHS).unlink()
    return Recording(path, model, loss, train_set, collate=collate, fingerprint=recorder.fingerprint)


def checkpoint_distance(steps: int) -> int:
    """Return the default number of steps between checkpoints; the first step after each is replayed while recording."""
    return math.ceil(1.5 * math.sqrt(steps))


def epoch_logs(path: Path) -> list[dict[str, Any]]:
    """Read the epoch log: `epoch`, `train_loss`, `lr` and the monitor's entries, one dict per epoch."""
    return read_lines(path / EPOCHS, "epoch logs", ("epoch", "train_loss")) if (path / EPOCHS).exists() else []


def forecast_bytes(model: nn.Module, optimizer: Optimizer, length: int, plan: Plan, checkpoint_every: int) -> int:
    """Estimate the size of the run directory in bytes."""
    copies = 1 + len(states_of(optimizer)) + len(plan.averages)
    state = copies * sum(p.nbytes for p in model.parameters()) + sum(_bytes(b) for b in model.buffers()) + 32_768
    checkpoints = plan.steps(length) // checkpoint_every + 2
    digits = len(str(length)) + 2
    return checkpoints * state + plan.steps(length) * 220 + plan.epochs * length * digits


def _bytes(buffer: Tensor) -> int:
    values: Tensor = buffer if buffer.layout is torch.strided else buffer.to_sparse_coo().coalesce().values()
    return values.nbytes


def _require_disk(path: Path, needed: int) -> None:
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFull(
            28,
            f"The run directory will take about {needed / 2**20:,.0f} MiB and {existing} has {free / 2**20:,.0f} MiB "
            f"free. Free some space, or write fewer checkpoints (checkpoint_every)",
        )


def _plan_entries(plan: Plan) -> dict[str, Any]:
    """What a resumed run must have the same of."""
    autocast = None if plan.autocast is None else str(plan.autocast).removeprefix("torch.")
    changed = {"accumulate": plan.accumulate, "clip_norm": plan.clip_norm, "autocast": autocast}
    entries = {"batch_size": plan.batch_size, "drop_last": plan.drop_last}
    return entries | {name: value for name, value in changed.items() if value != PLAIN[name]}


PLAIN = {"drop_last": False, "accumulate": 1, "clip_norm": None, "autocast": None}


def _require_same_plan(path: Path, plan: Plan) -> None:
    about, present = read_manifest(path).about, PLAIN | _plan_entries(plan)
    recorded = {"batch_size": None} | PLAIN | {name: about[name] for name in present if name in about}
    for option, value in present.items():
        if recorded[option] != value:
            raise RecordingMismatch(
                f"{path} was recorded with {option}={recorded[option]}, got {value}. Resume with the recorded value."
            )


def _scheduled_epochs(path: Path, next_step: int, scheduler_every: str) -> int:
    """How many epochs the schedule had counted at a checkpoint; 0 where it counts none."""
    folder = CheckpointFolder(path)
    entries = folder.entries() if next_step and scheduler_every == "epoch" else {}
    if next_step not in entries or 0 not in entries:
        return 0
    now, first = (folder.read(step, entries[step]).scheduler for step in (next_step, 0))
    counts = [state.get("last_epoch") if isinstance(state, dict) else None for state in (now, first)]
    at_end, at_start = counts
    return at_end - at_start if isinstance(at_end, int) and isinstance(at_start, int) else 0


def _progress(path: Path, next_step: int, per_epoch: int, scheduler_every: str) -> tuple[EpochLog, int]:
    """Return the losses of the unfinished epoch and the number of finished epochs, for a run resumed at `next_step`.

    An epoch is unfinished if its steps are done and its end (monitor, scheduler) was interrupted.
    """
    finished = min(len(epoch_logs(path)), next_step // per_epoch)
    if next_step > (finished + 1) * per_epoch or _scheduled_epochs(path, next_step, scheduler_every) > finished:
        raise RunDamaged(
            f"{path / EPOCHS} must hold the {next_step // per_epoch:,} epochs that ended before step {next_step:,}, "
            f"and holds {finished:,}: their schedule and measurements would be repeated. Restore it from a copy, or "
            f"train again."
        )
    tally = EpochLog()
    if next_step:
        for record in read_steps(path, read_manifest(path))[finished * per_epoch : next_step]:
            assert record.loss is not None
            tally.add(record.loss, len(record.indices))
    return tally, finished
