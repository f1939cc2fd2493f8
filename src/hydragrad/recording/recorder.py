"""The Recorder: watches a training loop and writes the run directory."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from hydragrad.derivatives import Batch, PerSampleLoss, require_differentiable
from hydragrad.errors import RunExists, StepError
from hydragrad.randomness import (
    BATCH,
    every_generator_state,
    preserved,
    seeded,
    set_generator_states,
    stream_seed,
)
from hydragrad.recording.between_steps import BetweenSteps
from hydragrad.recording.indexed import put_back
from hydragrad.recording.interruption import Interruption
from hydragrad.recording.observer import Indices, StepHandle
from hydragrad.recording.resuming import reached, require_same_run
from hydragrad.recording.verifying import Verifier
from hydragrad.recording.watch import Watch, checked_batch
from hydragrad.replay.data import (
    Collate,
    data_fingerprint,
    fetch,
    require_finite,
    require_finite_step,
    require_map_style,
    to_device,
)
from hydragrad.replay.machine import this_machine, threads
from hydragrad.replay.replay import first_trained_norm
from hydragrad.runs import manifest as manifests
from hydragrad.runs.checkpoints import Checkpoint, CheckpointFolder, resume_from, snapshot
from hydragrad.runs.lines import AppendOnlyLines
from hydragrad.runs.log import LOG, MicroBatch, StepRecord, to_line
from hydragrad.runs.manifest import Manifest, Reduction
from hydragrad.runs.stored_batches import load_batch, store_batch, sync_batches
from hydragrad.runs.unstarted import clear_away, never_started
from hydragrad.steps import rule_of

OWN_FILES = (LOG, "checkpoints.jsonl", "checkpoints", "batches", "scores")


class Recorder:
    """Records a training loop into a run directory, so that it can be replayed and differentiated.

    Use it as a context manager around the loop, with `step` around every optimizer step:

        with hg.Recorder("runs/mnist", model, optimizer, loss, train_set) as recorder:
            for indices, batch in hg.indexed(loader):
                with recorder.step(indices):
                    optimizer.zero_grad(); loss(model, batch).mean().backward(); optimizer.step()

    Inside a step the global generators draw from the step's own seed; outside they are the user's. The first
    step after every checkpoint is replayed at once.

    Args:
        path: Run directory. One without `manifest.json` is accepted, and nothing in it overwritten. A run whose
            first step fails leaves nothing behind; one killed before its first step is over is replaced.
        model: The model being trained.
        optimizer: One of torch.optim over the model's parameters, new or warm: SGD, Adam or AdamW.
        loss: `loss(model, batch)`: per-sample losses, shape (batch,).
        train_set: Map-style data set that the indices speak of.
        scheduler: Its state is kept, so that a killed run resumes with it.
        reduction: How the loop makes one number of the per-sample losses.
        checkpoint_every: Steps between checkpoints; by default the distance grows with the square root of the
            steps so far.
        store_batches: Keep every batch itself, for data that cannot be drawn again; pass it to `step`.
        collate: Makes a batch of a list of items, where the loader's is not torch's default.
        seed: What the seeds of the steps are derived from; by default told by torch's global generator.
        about: Entries for the manifest.
        resume: Go on with the run in `path` from its last checkpoint (or start one): model, optimizer,
            scheduler and generators are set to it, and `next_step` says where to go on. Inside the block
            torch runs with the recorded number of threads.

    Attributes:
        next_step: The step that comes next, counted from 0.
        fingerprint: Length and digest of the training set, once the recorder was entered.

    Raises:
        RunExists: `path` holds a run and `resume` is not set, or is being recorded by another process.
        RecordingMismatch: `resume` with another model, data set, reduction or seed.
        Unsupported: Optimizer, precision or module whose derivatives would be silently wrong.
        DataError: An empty data set, a stream, NaN in memory.
    """

    def __init__(
        self,
        path: str | Path,
        model: nn.Module,
        optimizer: Optimizer,
        loss: PerSampleLoss,
        train_set: Dataset[Any],
        *,
        scheduler: Any = None,
        reduction: Reduction = "mean",
        checkpoint_every: int | None = None,
        store_batches: bool = False,
        collate: Collate | None = None,
        seed: int | None = None,
        about: dict[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        rule_of(optimizer)
        require_differentiable(model)
        require_map_style(train_set)
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', not {reduction!r}.")
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1 step, not {checkpoint_every}.")
        self.path = Path(path)
        self._model, self._optimizer, self._loss, self._train_set = model, optimizer, loss, train_set
        self._scheduler, self._collate = scheduler, collate
        self._reduction: Reduction = reduction
        self._checkpoint_every, self._store_batches = checkpoint_every, store_batches
        self._seed, self._about, self._resume = seed, about or {}, resume
        self._watch = Watch(model, optimizer, "recorder.step()")
        self._parameters = self._watch.parameters
        self._between = BetweenSteps(model)
        self._device = next(model.parameters()).device
        self.next_step = 0
        self.fingerprint: dict[str, Any] = {}
        self._open = self._in_step = self._fresh = False
        self._consistent = True
        self._verifier = Verifier(model, loss, self._watch.rule)
        self._interruption = Interruption()
        self._folder = CheckpointFolder(self.path)
        self._last_checkpoint = -1
        self._before: StepRecord | None = None
        self._resumed: Checkpoint | None = None
        self._unchecked: Checkpoint | None = None
        self._last_indices: Sequence[int] | Tensor = ()
        self._made_folder = False
        self._while_open = ExitStack()
        self._manifest: Manifest
        self._log: AppendOnlyLines
        self._index: AppendOnlyLines

    def __enter__(self) -> Self:
        if self._resume and (self.path / manifests.FILE).exists():
            self._go_on()
        else:
            self._start()
        self._while_open.enter_context(threads(self._manifest.machine["threads"]))
        self._while_open.enter_context(self._interruption)
        self._watch.attach()
        self._between.begin()
        self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        self._watch.detach()
        if kind is not None and self._fresh and self.next_step == 0:
            self._leave_nothing()
            return
        try:
            # Only where the loop ended: an interrupted one may be anywhere between two steps (the schedule not yet
            # stepped, the loader moved on), so it resumes from the last checkpoint made at a step's start. That holds
            # for a loop that caught the Ctrl-C itself, too.
            ended = kind is None and self._consistent and not self._interruption.noticed
            if ended and self.next_step > self._last_checkpoint:
                self._write_checkpoint(self._snapshot(self._place()))
            status: manifests.Status = "completed" if ended else "interrupted"
            self._manifest = manifests.closed(self._manifest, status, self.next_step)
            manifests.write_manifest(self.path, self._manifest)
        except OSError:
            if error is None:
                raise
        finally:
            self._log.close()
            self._index.close()
            self._while_open.close()

    @contextmanager
    def step(self, indices: Sequence[int] | Tensor, batch: Any = None) -> Iterator[StepHandle]:
        """Record one optimizer step on `train_set[i] for i in indices`.

        Args:
            indices: The samples of the batch, in their order.
            batch: The batch itself; needed with `store_batches`.

        Yields:
            A handle; a loop may set its `loss`, which is then logged.

        Raises:
            StepError: Not exactly one optimizer step inside, or weights changed since the last one.
            ReplayMismatch: The loop does something that the recording does not know.
            NonFinite: The weights became NaN or infinite.
        """
        if not self._open or self._in_step:
            raise StepError("recorder.step() belongs inside `with Recorder(...)`, one block a step, never nested.")
        chosen = checked_batch(indices, self._manifest.data["length"])
        self._between.require_untouched(self.next_step)
        start = self._checkpoint_if_due(indices)
        self._in_step, self._consistent = True, False
        self._watch.begin()
        handle = StepHandle()
        try:
            with seeded(stream_seed(self._manifest.seed, self.next_step)):
                yield handle
        finally:
            self._in_step = False
            self._watch.end()
        record = self._finish(chosen, indices, batch, handle, start)
        self._between.begin(record.structure, record.norm)
        self._consistent, self._interruption.noticed = True, False  # a loop that goes on is one that ends
        self._last_indices = indices

    def take_sampler_position(self, loader: DataLoader[Any]) -> tuple[int, dict[str, Tensor] | None]:
        """After a resume inside an epoch, once: put the loader's generators back to the epoch's start.

        Returns:
            Batches to pass over, and the generator states to set after that.
        """
        if self._resumed is None:
            return 0, None
        resumed, self._resumed = self._resumed, None
        put_back(resumed.sampler, loader)
        position = resumed.sampler.get("position")
        return (0, None) if position is None else (position, resumed.generators)

    def _start(self) -> None:
        present = [name for name in (manifests.FILE, *OWN_FILES) if (self.path / name).exists()]
        if present and not never_started(self.path):
            raise RunExists(
                f"{self.path} already holds a run ({', '.join(present)}). Choose another directory, delete it, or "
                f"go on with it: resume=True (--resume)."
            )
        require_finite(self._train_set)
        self.fingerprint = data_fingerprint(self._train_set)
        with preserved():
            seed = torch.randint(2**62, ()).item() if self._seed is None else self._seed
        self._manifest = Manifest(
            machine=this_machine(self._device),
            model=manifests.model_facts(self._model),
            data=self.fingerprint,
            reduction=self._reduction,
            seed=int(seed),
            store_batches=self._store_batches,
            optimizers=[self._watch.rule.name],
            about=self._about,
        )
        if present:
            clear_away(self.path)
        self._made_folder = not self.path.exists()
        self._fresh = True
        self.path.mkdir(parents=True, exist_ok=True)
        manifests.write_manifest(self.path, self._manifest)
        self._log, self._index = AppendOnlyLines(self.path / LOG), AppendOnlyLines(self._folder.index)

    def _leave_nothing(self) -> None:
        """Undo the start: the first step was refused, and the call that mends it shall find the way free."""
        self._log.close()
        self._index.close()
        self._while_open.close()
        with suppress(OSError):
            clear_away(self.path)
            if self._made_folder:
                self.path.rmdir()  # unless somebody put something there

    def _go_on(self) -> None:
        self.fingerprint = data_fingerprint(self._train_set)
        options: dict[str, Any] = {"optimizers": [self._watch.rule.name]}
        options |= {"reduction": self._reduction, "store_batches": self._store_batches}
        options |= {} if self._seed is None else {"seed": self._seed}
        recorded = manifests.read_manifest(self.path)
        recorded = require_same_run(self.path, recorded, self._model, self.fingerprint, options)
        last = reached(self.path, recorded)
        if last.checkpoint is not None:
            resume_from(last.checkpoint, self._model, self._optimizer)
            if self._scheduler is not None and last.checkpoint.scheduler is not None:
                self._scheduler.load_state_dict(last.checkpoint.scheduler)
            set_generator_states(last.checkpoint.generators)
            self._resumed = self._unchecked = last.checkpoint
            self._last_checkpoint = last.step
        self._log = AppendOnlyLines(self.path / LOG, keep=last.step)
        self._index = AppendOnlyLines(self._folder.index, keep=last.checkpoints)
        self._before, self.next_step = last.before, last.step
        self._manifest = dataclasses.replace(recorded, status="running", steps=None)
        manifests.write_manifest(self.path, self._manifest)

    def _checkpoint_if_due(self, indices: Sequence[int] | Tensor) -> Checkpoint | None:
        """Write a checkpoint where one is due; return the state where a segment starts here."""
        every = self._checkpoint_every or max(1, math.isqrt(self.next_step))
        if self._last_checkpoint >= 0 and self.next_step - self._last_checkpoint < every:
            start, self._unchecked = self._unchecked, None
            return start
        start = self._snapshot(getattr(indices, "sampler", None))
        self._write_checkpoint(start)
        return start

    def _snapshot(self, sampler: dict[str, Any] | None) -> Checkpoint:
        return snapshot(
            self.next_step,
            self._model,
            self._optimizer,
            generators=every_generator_state(),
            sampler=sampler or {},
            scheduler=None if self._scheduler is None else self._scheduler.state_dict(),
        )

    def _place(self) -> dict[str, Any] | None:
        """Where the loader stands after the last step."""
        last = self._last_indices
        if not isinstance(last, Indices) or last.epoch is None or last.sampler is None:
            return None
        return last.epoch.place(last.sampler)

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        if self._store_batches:
            sync_batches(self.path, max(0, self._last_checkpoint), checkpoint.step)
        self._log.sync()
        self._folder.write(checkpoint, self._index)
        self._last_checkpoint = checkpoint.step

    def _finish(
        self,
        chosen: list[int],
        indices: Sequence[int] | Tensor,
        batch: Any,
        handle: StepHandle,
        start: Checkpoint | None,
    ) -> StepRecord:
        self._watch.require_one_step()
        batch_seed = indices.batch_seed if isinstance(indices, Indices) else None
        structure = self._watch.structure(None if self._before is None else self._before.structure)
        part = MicroBatch(
            indices=chosen,
            batch_seed=stream_seed(self._manifest.seed, self.next_step, BATCH) if batch_seed is None else batch_seed,
            seed=stream_seed(self._manifest.seed, self.next_step),
            coefficients=1 / len(chosen) if self._manifest.reduction == "mean" else 1.0,
        )
        record = StepRecord(
            step=self.next_step,
            micro_batches=(part,),
            options=self._watch.options,
            structure=structure,
            norm=first_trained_norm(self._parameters, structure),
            loss=handle.loss,
        )
        require_finite_step(record, lambda: [self._fetch(record.step, part) if batch is None else batch])
        if self._store_batches:
            if batch is None:
                raise StepError("With store_batches=True the batch must be given: recorder.step(indices, batch).")
            store_batch(self.path, record.step, batch)
        if start is not None and self._verifier.due(record.step):
            after = {name: parameter.detach() for name, parameter in self._parameters.items()}
            self._verifier.verify(
                start, record, lambda: [Batch(self._fetch(record.step, part), len(part), part.seed)], after
            )
        self._log.append(to_line(record, self._before))
        self._before = record
        self.next_step += 1
        return record

    def _fetch(self, step: int, part: MicroBatch) -> Any:
        if self._store_batches:
            return to_device(load_batch(self.path, step), self._device)
        return fetch(
            self._train_set,
            part.indices,
            seed=part.batch_seed,
            collate=self._collate,
            device=self._device,
        )
