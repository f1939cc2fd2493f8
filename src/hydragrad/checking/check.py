"""`check`: two steps of a setup on a copy, and a table of what can be recorded, by which routes, and at what cost."""

import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, Dataset

from hydragrad.checking.checked import Checked, Mode, Part
from hydragrad.checking.modes import every_mode, notes_of
from hydragrad.checking.parts import (
    batches_part,
    data_part,
    has_batch_norm,
    label_part,
    last_batch_part,
    loader_part,
    loss_part,
    model_part,
    optimizer_parts,
    precision_refusal,
    process_parts,
    randomness_part,
)
from hydragrad.checking.refused import Refusal, attempt
from hydragrad.checking.setup import Setup, listed, some_of, two_steps
from hydragrad.checking.sizes import sizes_of
from hydragrad.checking.trial import Trial, again, opened, plain_seconds, recorded
from hydragrad.derivatives import PerSampleLoss, bare_model
from hydragrad.progress import Bar, bar
from hydragrad.randomness import preserved
from hydragrad.recording.data_parallel import in_one_process
from hydragrad.replay import Recording, require_map_style
from hydragrad.replay.data import Collate
from hydragrad.scores import Note
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.training import Plan

STAND_IN_RATE = 1e-3
"""Of the optimizer that stands in for one that is refused."""

STAGES = 12
"""Of the progress bar: the parts, the recording, and the modes."""


@in_clean_surroundings
def check(
    model: nn.Module,
    optimizer: Any,
    loss: PerSampleLoss,
    train_set: Dataset[Any],
    *,
    loader: DataLoader[Any] | None = None,
    collate: Collate | None = None,
    batch_size: int = 64,
    drop_last: bool = False,
    clip_norm: float | None = None,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    scheduler: Any = None,
    epochs: int = 1,
    steps: int | None = None,
    timed: bool = True,
) -> Checked:
    """Make two steps of a setup on a copy, and say what can be recorded, by which routes, and at what cost.

    Nothing of the caller's changes: model, optimizer and scheduler are copied with their states, generators are put
    back, and what is written lies in a temporary folder. A refusal is an entry of the table with the library's own
    words; the other parts are looked at all the same, as far as that is possible.

    Args:
        model: As it would be trained, also in DistributedDataParallel; the copy is set to train mode.
        optimizer: One of torch.optim over the model's parameters, new or warm, or a list of several.
        loss: `loss(model, batch)`: per-sample losses, shape (batch,).
        train_set: Map-style data set.
        loader: The DataLoader over it, if there is one: gives batches, their size, collate function and drop_last.
        collate: Makes a batch of a list of items; torch's default if None.
        batch_size: Samples of a batch, without a loader.
        drop_last: Leave out an epoch's last batch where it is smaller, without a loader.
        clip_norm: Clip the gradient of every step to this L2 norm.
        accumulate: Batches of a step.
        autocast: `torch.bfloat16` runs forward passes under autocast.
        scheduler: A torch scheduler of the optimizer; it steps after every step.
        epochs: Passes over the data that the costs are forecast for.
        steps: Steps that the costs are forecast for, in place of `epochs`.
        timed: False measures no times: only what works, and how.

    Returns:
        The table; `checked.recordable` says whether the setup can be recorded.

    Raises:
        ValueError: Numbers below 1, or a norm to clip to that is not above 0.

    Cost: every mode takes the two steps several times over: about as much as some hundred training steps.
    """
    _require_positive(batch_size=batch_size, accumulate=accumulate, epochs=epochs, steps=1 if steps is None else steps)
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be above 0, or None for no clipping, got {clip_norm}.")
    processes, model = process_parts(model), bare_model(model) if isinstance(model, nn.Module) else model
    with (
        _silent(),
        preserved(),
        in_one_process(),
        torch.enable_grad(),
        bar("checking", STAGES, unit="stages") as progress,
    ):
        checking = _Checking(progress)
        if loader is not None:
            collate = _collate_of(loader) if collate is None else collate
            batch_size, drop_last = loader.batch_size or batch_size, loader.drop_last
        checking.parts = [
            model_part(model),
            *processes,
            *optimizer_parts(optimizer),
            data_part(train_set, model, loss, batch_size, collate),
        ]
        if attempt(lambda: require_map_style(train_set))[1] is not None:
            return checking.result()
        checking.parts.append(loader_part(loader, train_set, batch_size, drop_last))
        if not (_usable(model, optimizer) and checking.parts[-1].ok):
            return checking.result()
        length = len(train_set)  # type: ignore[arg-type]
        plan = Plan(epochs=1, batch_size=batch_size, drop_last=drop_last)
        batches = len(loader) if loader is not None else max(1, plan.passes(length))
        checking.samples = length
        checking.steps = math.ceil(batches / accumulate) * epochs if steps is None else steps
        refused = precision_refusal(autocast)
        samples, groups = two_steps(train_set, loader, batch_size, accumulate)
        setup = Setup(
            model=model,
            optimizer=optimizer,
            loss=loss,
            train_set=train_set,
            data=some_of(train_set, samples),
            samples=samples,
            groups=groups,
            scheduler=scheduler,
            collate=collate,
            clip_norm=clip_norm,
            autocast=None if refused else autocast,
        )
        last = plan.last_batch(length) if loader is None or loader.batch_size else batch_size
        checking.look(setup, last, refused, timed=timed)
        return checking.result()


class _Checking:
    """Collects what is found."""

    def __init__(self, progress: Bar) -> None:
        self._progress = progress
        self.parts: list[Part] = []
        self.modes: list[Mode] = []
        self.notes: list[Note] = []
        self.samples = self.steps = 0
        self.plain: float | None = None

    def result(self) -> Checked:
        """All of it."""
        return Checked(
            parts=tuple(self.parts),
            modes=tuple(self.modes),
            notes=tuple(self.notes),
            steps=self.steps,
            samples=self.samples,
            step_seconds=self.plain,
        )

    def look(self, setup: Setup, last: int, half: Refusal | None, *, timed: bool) -> None:
        """Look at the remaining parts, record two steps, and take every mode on them."""
        copies, refusal = attempt(setup.copies)
        if copies is None:
            self.parts.append(Part(name="copies", ok=False, refusal=refusal))
            return
        self.parts += [batches_part(setup), self._loss(setup)]
        if not callable(setup.loss):
            return
        if self.parts[-1].ok:
            self.parts += [randomness_part(setup), label_part(setup)]
        known = all(part.ok for part in self.parts if part.name.startswith("optimizer"))
        if not known:  # the rest is looked at all the same
            setup = replace(setup, optimizer=SGD(setup.model.parameters(), lr=STAND_IN_RATE), scheduler=None)
        batch_norm = has_batch_norm(setup.model)
        if batch_norm:
            self.parts.append(last_batch_part(setup, last))
        self._progress.advance()
        with tempfile.TemporaryDirectory(prefix="hydragrad-check-") as folder:
            run = self._record(setup, Path(folder), half, "" if known else ", with SGD in the optimizer's place")
            self._progress.advance()
            if run is not None:
                self._take_modes(setup, run, Path(folder), batch_norm=batch_norm, timed=timed)

    def _loss(self, setup: Setup) -> Part:
        """The loss; its own errors mean little where the model is refused."""
        part = loss_part(setup)
        if part.refusal is not None and part.refusal.foreign and not self.parts[0].ok:
            return Part(name="loss", ok=None, found="can't be evaluated on this model")
        return part

    def _record(self, setup: Setup, folder: Path, half: Refusal | None, how: str) -> Recording | None:
        """Record the two steps; what the record shows of clipping, accumulation and precision are parts, too."""

        def job() -> Recording:
            recorded(setup, folder / "two")
            return opened(setup, folder / "two")

        run, refusal = attempt(job)
        if refusal is not None and list(setup.samples) != list(range(len(setup.samples))):
            _, named = attempt(lambda: recorded(setup.on_everything(), folder / "everything"))
            refusal = named or refusal
        self.parts += list(_seen(setup, run, half))
        self.parts.append(
            Part(
                name="two steps",
                ok=run is not None,
                found="" if run is None else f"recorded{how}, and repeated from the record",
                refusal=self._once(refusal),
            )
        )
        return run

    def _once(self, refusal: Refusal | None) -> Refusal | None:
        """The same refusal as that of a part is named by the part alone."""
        named = next((part.name for part in self.parts if refusal is not None and part.refusal == refusal), None)
        return refusal if named is None or refusal is None else Refusal(refusal.error, f"see {named}", repeats=True)

    def _take_modes(self, setup: Setup, run: Recording, folder: Path, *, batch_norm: bool, timed: bool) -> None:
        work, self.plain, longer = None, None, None
        if timed:
            work, self.plain = plain_seconds(setup)
            recorded(again(setup), folder / "longer")
            longer = opened(again(setup), folder / "longer")
        trial = Trial(
            setup=setup,
            run=run,
            longer=longer,
            plain=work,
            waits=1.0 if work is None or self.plain is None else self.plain / work,
            sizes=sizes_of(run),
            steps=self.steps,
            samples=self.samples,
            folder=folder,
        )
        for name, job in every_mode(trial, batch_norm=batch_norm):
            self._progress.note(name)
            mode, refusal = attempt(job)
            self.modes.append(Mode(name=name, works=False, refusal=refusal) if mode is None else mode)
            self._progress.advance()
        if not batch_norm:  # a stage fewer
            self._progress.advance()
        self.notes = list(notes_of(trial))


def _seen(setup: Setup, run: Recording | None, half: Refusal | None) -> Iterator[Part]:
    """Parts that the record shows."""
    ok = None if run is None else True
    steps = [] if run is None else run.steps
    count = len(setup.groups[0])
    found = "one batch a step" if count == 1 else f"{count} batches a step; their coefficients were seen"
    yield Part(name="accumulation", ok=ok, found=found)
    acted = sum(record.transformed for record in steps)
    found = (
        "none" if setup.clip_norm is None else f"to norm {setup.clip_norm:g}; acted in {acted} of {len(steps)} steps"
    )
    yield Part(name="clipping", ok=ok, found=found)
    if half is not None:
        yield Part(name="precision", ok=False, refusal=half)
    else:
        kinds = {part.autocast for record in steps for part in record.micro_batches}
        seen = sorted(f"{kind[1]} on {kind[0]}" for kind in kinds if kind is not None)
        yield Part(name="precision", ok=ok, found=f"autocast to {', '.join(seen)}" if seen else "without autocast")
    if setup.scheduler is not None:
        yield Part(name="schedule", ok=ok, found=f"{type(setup.scheduler).__name__}: rates are read at every step")


def _usable(model: Any, optimizer: Any) -> bool:
    """Whether there are a model and an optimizer to make steps with, be they supported or not."""
    parameters = isinstance(model, nn.Module) and any(True for _ in model.parameters())
    optimizers = listed(optimizer)
    return parameters and bool(optimizers) and all(isinstance(one, Optimizer) for one in optimizers)


def _collate_of(loader: DataLoader[Any]) -> Collate | None:
    """The loader's collate function, if it is not torch's default."""
    default = DataLoader(loader.dataset).collate_fn if loader.batch_sampler is not None else None
    return None if loader.collate_fn is default else loader.collate_fn


@contextmanager
def _silent() -> Iterator[None]:
    """What steps and modes warn of is in the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _require_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
