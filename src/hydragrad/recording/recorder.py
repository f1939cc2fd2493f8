"""The Recorder: records a user's loop into a run directory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from hydragrad.derivatives import Batch, Evaluator, PerSampleLoss, copy_of, require_differentiable
from hydragrad.derivatives.evaluation import own_memory
from hydragrad.derivatives.leaves import map_leaves
from hydragrad.errors import StepError, Unsupported
from hydragrad.randomness import preserved
from hydragrad.recording.averages import Average, Averages
from hydragrad.recording.batch_of_one import naming_batch_of_one, require_batch_of_one
from hydragrad.recording.data_parallel import processes_of
from hydragrad.recording.interruption import Interruption
from hydragrad.recording.loop_state import LoopState
from hydragrad.recording.observer import StepHandle
from hydragrad.recording.prepared import bare_optimizers
from hydragrad.recording.rank_watch import RankWatch
from hydragrad.recording.rank_zero import RankZero
from hydragrad.recording.resuming import Progress, read_common_progress, read_progress, require_same_run
from hydragrad.recording.run_writer import RunWriter
from hydragrad.recording.sampler_position import SamplerPosition, position_after, position_before, resumed_position
from hydragrad.recording.step_block import StepBlock
from hydragrad.recording.verifying import Verifier
from hydragrad.replay.backend import backend
from hydragrad.replay.data import (
    Collate,
    data_fingerprint,
    fetch,
    fetch_micro_batch,
    require_finite,
    require_finite_step,
    require_map_style,
)
from hydragrad.replay.fingerprints import state_number, state_of
from hydragrad.replay.machine import this_machine, threads
from hydragrad.replay.outside_state import OutsideState
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord
from hydragrad.runs.manifest import FILE, Manifest, Reduction, Status, model_facts, read_manifest
from hydragrad.runs.processes import part_of
from hydragrad.steps import Together
from hydragrad.surroundings import in_clean_surroundings


@dataclass
class _Shown:
    """What the loop showed of a micro-batch."""

    batch: Any


class Recorder:
    """Records a training loop into a run directory, so that it can be replayed and differentiated.

    Use it as a context manager around the loop, with `step` around every optimizer step:

        with hg.Recorder("runs/mnist", model, optimizer, loss, train_set) as recorder:
            for indices, batch in hg.indexed(loader):
                with recorder.step(indices):
                    optimizer.zero_grad(); loss(model, batch).mean().backward(); optimizer.step()

    Inside a step the global generators draw from the step's own seed; outside they are the user's. The first
    step after a checkpoint is replayed at once, at ever longer distances.

    Args:
        path: Run directory. One without `manifest.json` is accepted, and nothing in it overwritten. A run whose
            first step fails leaves nothing behind; one that was killed in its first step is replaced. The same in every
            process, where several train together: each writes a part of its own in it.
        model: The model being trained; the DistributedDataParallel around it where several processes train it.
        optimizer: One of torch.optim over the model's parameters, or a registered one, new or warm, also as accelerate
            wraps it; or several in a list, each over parameters of its own.
        loss: `loss(model, batch)`: per-sample losses, shape (batch,).
        train_set: Map-style data set that the indices refer to.
        scheduler: Its state is saved, so that a killed run resumes with it; or several in a list.
        reduction: How the loop makes one number of the per-sample losses.
        checkpoint_every: Steps between checkpoints; by default the distance grows with the square root of the
            steps so far.
        store_batches: Store every batch itself, for data that cannot be fetched again; pass it to `step`.
        collate: Makes a batch of a list of items, where the loader's is not torch's default.
        averages: Averages of the weights that the loop keeps (EMA, SWA), by name: `run.averaged(name)` asks about
            them. Each the averaged module (or torch's AveragedModel around it), its tensors by the names of the
            model's, or a list in the model's order. What the loop's updates do is observed.
        seed: What the seeds of the steps are derived from; by default it comes from torch's global generator.
        about: Entries for the manifest.
        resume: Resume the run in `path` from its last checkpoint (or start one): model, optimizer, scheduler and
            generators are set to it, and `next_step` is the step to continue with. Inside the block torch runs
            with the recorded number of threads.
        resume_at: With `resume`, the step to continue with, before which `save` wrote a checkpoint; steps after it
            are dropped. The last checkpoint's if None.

    Attributes:
        next_step: The step that comes next, counted from 0.
        fingerprint: Length and digest of the training set, once the recorder was entered.

    Raises:
        RunExists: `path` holds a run and `resume` is not set, or is being recorded by another process.
        RecordingMismatch: `resume` with another model, optimizer, data set, reduction, seed or number of processes.
        Unsupported: Optimizer, precision or module whose derivatives would be silently wrong; processes that train
            together otherwise than by DistributedDataParallel.
        DataError: An empty data set, a stream, NaN in memory.
    """

    @in_clean_surroundings
    def __init__(
        self,
        path: str | Path,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        loss: PerSampleLoss,
        train_set: Dataset[Any],
        *,
        scheduler: Any = None,
        reduction: Reduction = "mean",
        checkpoint_every: int | None = None,
        store_batches: bool = False,
        collate: Collate | None = None,
        averages: Mapping[str, Average] | None = None,
        seed: int | None = None,
        about: dict[str, Any] | None = None,
        resume: bool = False,
        resume_at: int | None = None,
    ) -> None:
        together = Together(bare_optimizers(optimizer))
        self._processes = processes = processes_of(model)
        model = processes.model
        require_differentiable(model)
        require_map_style(train_set)
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}.")
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1 step, got {checkpoint_every}.")
        self._run = Path(path).absolute()
        self.path = part_of(self._run, processes.rank)
        self._model, self._loss, self._train_set, self._collate = model, loss, train_set, collate
        self._recorded: dict[str, Any] = {
            "optimizers": [rule.name for rule in together.rules],
            "reduction": reduction,
            "store_batches": store_batches,
        }
        self._seed = None if seed is None else processes.own_seed(seed)
        self._about, self._resume, self._resume_at = about or {}, resume, resume_at
        self._stored_in = self._run if store_batches else None
        self._parameters = dict(model.named_parameters())
        self._device = next(model.parameters()).device
        self._averages = Averages(averages, model)
        self._state = LoopState(model, together, scheduler, self._averages)
        self._rank = RankWatch(processes, together.members, "recorder.step()") if processes.several else None
        self._rank_zero = RankZero(self._run, processes.rank) if processes.rank else None
        self._block = StepBlock(
            model,
            together,
            owner="Recorder",
            length=len(train_set),  # type: ignore[arg-type]
            reduction=reduction,
            state=lambda: state_number(state_of(model, together.members)),
            rank=self._rank,
        )
        self._rest = self._block.watch.rest
        self._verifier = Verifier(model, loss, together.rules)
        self._outside = OutsideState(model, loss)
        self._interruption = Interruption()
        self._writer = RunWriter(self.path, checkpoint_every)
        self._while_open = ExitStack()
        self.next_step = 0
        self.fingerprint: dict[str, Any] = {}
        self._between_steps = True
        self._start: Checkpoint | None = None  # of the step that its micro-batches make, where it is verified
        self._begun: AbstractContextManager[StepHandle] | None = None
        self._last_record: StepRecord | None = None
        self._last_indices: Sequence[int] | Tensor = ()
        self._resumed_loader: Checkpoint | None = None  # until the loader is set to it
        self._unfinished_segment: Checkpoint | None = None  # until the first step after it is done

    @in_clean_surroundings
    def __enter__(self) -> Self:
        if self._resume and (self.path / FILE).exists():
            self._resume_run()
        else:
            progress = self._common_progress() if self._resume and self._processes.several else None
            self._start_run()
            if progress is not None:  # this rank was killed before it wrote anything
                self._restore(progress)
        self._while_open.enter_context(threads(self._writer.manifest.machine["threads"]))
        self._while_open.enter_context(backend(self._writer.manifest.machine.get("backend", {})))
        self._while_open.enter_context(self._interruption)
        self._block.open(self._writer.manifest.seed)
        self._rest.begin()
        self._averages.begin()
        self._outside.begin()
        return self

    @in_clean_surroundings
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._block.close()
        with self._while_open:
            if kind is not None and not self._writer.resumed and self.next_step == 0:
                self._writer.discard()
                return
            try:
                # An interrupted loop may be anywhere between two steps (the schedule not yet stepped, the loader
                # advanced), also where it caught the Ctrl-C itself: it resumes from a checkpoint at a step's start.
                ended = kind is None and self._between_steps and not self._interruption.noticed
                if ended:
                    self._note_averages_at_the_end()
                if ended and self.next_step:
                    self._require_untouched_at_the_end()
                if ended and self.next_step > self._writer.last_checkpoint:
                    at_the_end = self._state.checkpoint(self.next_step, position_after(self._last_indices))
                    self._writer.write_checkpoint(at_the_end)
                if ended:
                    self._outside.require_none(self._last_batches)
                self._finish("completed" if ended else "interrupted")
            except Unsupported:
                self._finish("interrupted")
                raise
            except OSError:
                if error is None:
                    raise
            finally:
                self._writer.close()

    def _finish(self, status: Status) -> None:
        self._writer.finish(status, self.next_step, self._outside.names, self._averages.names)

    def _note_averages(self) -> None:
        """Write what the loop did to its averages since the last look."""
        for update in self._averages.updates(self.next_step, inside=self._block.pending > 0):
            self._writer.write_update(update)

    def _note_averages_at_the_end(self) -> None:
        """The same; where one is none any more, the run is kept as one that was interrupted, without averages."""
        try:
            self._note_averages()
        except StepError:
            self._finish("interrupted")
            raise

    def _require_untouched_at_the_end(self) -> None:
        """Refuse a model that is not the run's end any more; the run itself is kept, up to its last step."""
        try:
            self._rest.require_untouched_at_the_end(self.next_step)
        except StepError:
            self._finish("completed")
            raise

    @contextmanager
    def step(self, indices: Sequence[int] | Tensor, batch: Any = None) -> Iterator[StepHandle]:
        """Record a batch, `train_set[i] for i in indices`: its forward and backward pass, and the optimizer's step.

        A block without an optimizer step is a micro-batch of the step that follows.

        Args:
            indices: The samples of the batch, in their order.
            batch: The batch itself; needed with `store_batches`, unless the handle's `losses` get it.

        Yields:
            A handle: its `losses(batch)` are the recorded ones; a loop may set its `loss`, which is then logged.

        Raises:
            StepError: Several optimizer steps inside, no backward pass, or weights changed since the last step.
            ReplayMismatch: The loop does something that is not recorded.
            NonFinite: The weights became NaN or infinite.
        """
        samples = self._block.samples(indices)
        self._rest.require_untouched(self.next_step)
        self._note_averages()
        if self._block.pending == 0:
            self._start = self._segment_start(indices)
            if self._rank is not None:
                self._rank.begin_step(noted=self._start is not None)
            if self._rank_zero is not None:
                self._rank_zero.compare(self.next_step, self._writer.manifest)
        if self._last_record is None and getattr(indices, "leaves_one", False):
            require_batch_of_one(self._model, self._loss, self._train_set, self._collate)
        # The loop may take its batch apart.
        shown = _Shown(batch if self._stored_in is None else map_leaves(batch, own_memory))
        handle = StepHandle(lambda data: self._losses_in_block(data, shown), self._block.reduced)
        self._between_steps = False
        part = self._block.micro_batch(self.next_step, indices, samples, batch)
        with naming_batch_of_one(len(samples)), self._block.watched(part):
            yield handle
        number = self._block.pending
        record = self._block.record(self.next_step, handle.loss)
        if self._stored_in is not None:
            self._writer.store_batch(self.next_step, number, shown.batch)
        self._last_indices = indices
        if record is None:
            self._between_steps = True
            return
        self._check(record, self._start)
        self._unfinished_segment = self._start = None
        self._writer.write_step(record)
        if self._rank_zero is not None:
            self._rank_zero.note(record)
        self._last_record = record
        self.next_step += 1
        self._rest.go_on()
        # The loop did not end with an interruption before this step.
        self._between_steps, self._interruption.noticed = True, False

    def _losses_in_block(self, data: Any, shown: "_Shown") -> Tensor:
        if self._stored_in is not None and shown.batch is None:
            shown.batch = map_leaves(data, own_memory)
        return self._block.losses(self._loss, data)

    def save(self) -> None:
        """Write a checkpoint now, between two steps, for a loop that writes one of its own to resume from.

        Raises:
            StepError: Inside of a step, or between the micro-batches of one.
        """
        if not self._between_steps or self._block.pending:
            raise StepError(
                "recorder.save() belongs between two steps: after the block that holds optimizer.step(), and before "
                "the next one. Call it there."
            )
        if self.next_step > self._writer.last_checkpoint and self.next_step:
            self._rest.require_untouched(self.next_step)
            self._note_averages()
            self._writer.write_checkpoint(self._state.checkpoint(self.next_step, position_after(self._last_indices)))

    def open(self) -> Self:
        """Enter the recorder, where a framework's callbacks can hold no `with` statement open."""
        return self.__enter__()

    def close(self, error: BaseException | None = None) -> None:
        """Leave it; with the error that ended the loop, where one did."""
        self.__exit__(type(error) if error is not None else None, error, None)

    def begin(self, indices: Sequence[int] | Tensor, batch: Any = None) -> StepHandle:
        """Enter a `step` block; `end` leaves it.

        Raises:
            StepError: As `step`; also where the block before was not left.
        """
        if self._begun is not None:
            raise StepError("recorder.begin() was called twice without recorder.end() between. Call end() first.")
        block = self.step(indices, batch)
        handle = block.__enter__()
        self._begun = block
        return handle

    def end(self, error: BaseException | None = None) -> None:
        """Leave the block that `begin` entered; with the error that ended it, where one did.

        Raises:
            StepError: No block is open; and as `step`.
        """
        if self._begun is None:
            raise StepError("recorder.end() leaves the block that recorder.begin(indices) entered; there is none.")
        block, self._begun = self._begun, None
        block.__exit__(type(error) if error is not None else None, error, None)

    def take_sampler_position(self, loader: DataLoader[Any]) -> tuple[int, dict[str, Tensor] | None]:
        """After a resume inside an epoch, once: set the loader's generators to the epoch's start.

        Returns:
            Batches to skip, and the generator states to set after that.
        """
        checkpoint, self._resumed_loader = self._resumed_loader, None
        return SamplerPosition() if checkpoint is None else resumed_position(checkpoint, loader)

    def _start_run(self) -> None:
        self._writer.require_free()
        require_finite(self._train_set, self._losses_of)
        self.fingerprint = data_fingerprint(self._train_set)
        with preserved():
            drawn = int(torch.randint(2**62, ()).item())
        seed = self._processes.own_seed(drawn) if self._seed is None else self._seed
        machine, model = this_machine(self._device), model_facts(self._model)
        data, recorded = self.fingerprint, self._recorded | self._processes.named
        self._writer.start(Manifest(machine=machine, model=model, data=data, seed=seed, about=self._about, **recorded))

    def _resume_run(self) -> None:
        self.fingerprint = data_fingerprint(self._train_set)
        options = self._recorded | self._processes.named | ({} if self._seed is None else {"seed": self._seed})
        manifest = require_same_run(self.path, read_manifest(self.path), self._model, self.fingerprint, options)
        if self._processes.several:
            progress = self._common_progress()
        else:
            progress = read_progress(self.path, manifest, self._resume_at)
        self._restore(progress)
        self._writer.resume(manifest, progress)
        self.next_step = progress.step

    def _common_progress(self) -> Progress:
        return read_common_progress(self._run, self._processes.rank, self._processes.count, self._resume_at)

    def _restore(self, progress: Progress) -> None:
        if progress.checkpoint is not None:
            self._state.restore(progress.checkpoint)
            self._resumed_loader = self._unfinished_segment = progress.checkpoint

    def _losses_of(self, samples: list[int]) -> Tensor:
        """Losses of some samples on a copy of the model, in eval mode."""
        with preserved(), torch.no_grad():
            model = copy_of(self._model).eval()
            data = fetch(self._train_set, samples, seed=0, collate=self._collate, device=self._device)
            return Evaluator(self._loss)(model, data)

    @in_clean_surroundings
    def _segment_start(self, indices: Sequence[int] | Tensor) -> Checkpoint | None:
        """The checkpoint before the next step, written if it is due; None inside a segment."""
        if not self._writer.checkpoint_due(self.next_step):
            return self._unfinished_segment
        checkpoint = self._state.checkpoint(self.next_step, position_before(indices))
        self._writer.write_checkpoint(checkpoint)
        self._unfinished_segment = checkpoint
        return checkpoint

    @in_clean_surroundings
    def _check(self, record: StepRecord, start: Checkpoint | None) -> None:
        """Refuse a step that is not finite or can't be replayed."""
        require_finite_step(record, lambda: self._fetch(record), self._parameters)
        if start is not None and self._verifier.due(record.step):
            with self._outside.named_where(lambda: self._batches(record)):
                if self._rank is None:
                    self._verifier.verify(start, record, lambda: self._fetch(record), self._parameters)
                else:
                    self._verifier.verify_own_gradient(start, record, lambda: self._fetch(record), self._rank)
            self._outside.require_none(lambda: self._batches(record))

    def _last_batches(self) -> list[Batch]:
        return [] if self._last_record is None else self._batches(self._last_record)

    def _batches(self, record: StepRecord) -> list[Batch]:
        parts = zip(record.micro_batches, self._fetch(record), strict=True)
        return [Batch(data, len(part), part.seed) for part, data in parts]

    def _fetch(self, record: StepRecord) -> list[Any]:
        options: dict[str, Any] = {"collate": self._collate, "device": self._device, "stored_in": self._stored_in}
        return [fetch_micro_batch(record, part, self._train_set, **options) for part in record.micro_batches]
