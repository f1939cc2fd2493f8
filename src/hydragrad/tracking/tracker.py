"""The Tracker: the paper's online algorithm, while the user trains."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from hydragrad.derivatives import (
    Batch,
    BatchStatistics,
    Layout,
    OwnBatches,
    PerSampleLoss,
    bare_model,
    require_differentiable,
    running_statistics,
)
from hydragrad.errors import NonFinite, QueryError, StepError, Unsupported
from hydragrad.randomness import preserved, step_seed
from hydragrad.recording import StepHandle
from hydragrad.recording.batch_of_one import naming_batch_of_one
from hydragrad.recording.data_parallel import require_one_process
from hydragrad.recording.gradient_watch import Earlier
from hydragrad.recording.prepared import bare_optimizers
from hydragrad.recording.step_block import StepBlock
from hydragrad.recording.verifying import check_one_step
from hydragrad.replay import require_map_style
from hydragrad.replay.data import Collate, data_fingerprint
from hydragrad.replay.outside_state import OutsideState
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs import StepRecord
from hydragrad.runs.buffers import require_dense
from hydragrad.runs.checkpoints import Checkpoint, snapshot
from hydragrad.runs.log import MicroBatch
from hydragrad.runs.manifest import Reduction, model_facts
from hydragrad.scores import Query, checked_samples
from hydragrad.steps import StepRule, Together
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.tracking.answers import Answer
from hydragrad.tracking.facts import FILE, StoreFacts, is_growing, read_facts
from hydragrad.tracking.growing_store import model_state, read_growing, read_log, unfinished_schedule
from hydragrad.tracking.new_store import make_projector, require_no_store, storage
from hydragrad.tracking.online import OnlineRows, Tracked
from hydragrad.tracking.options import notes, require_sound, smoothing_share
from hydragrad.tracking.resuming import place_among, require_same_step, state_norm
from hydragrad.tracking.rows.growing_rows import GrowingRows
from hydragrad.tracking.schedule import Schedule, fingerprint
from hydragrad.tracking.step_batch import StepBatch
from hydragrad.tracking.store import Store
from hydragrad.tracking.unfinished import finish, opened_unfinished, require_same_store


class Tracker:
    """Carries d(weights)/d(sample weight) of tracked samples along while the user trains, under any schedule.

    Use it as a context manager around the loop, alone or with a Recorder, with `step` around every optimizer step:

        with hg.Tracker(model, optimizer, loss, train_set) as tracker:
            for indices, batch in hg.indexed(loader):
                with tracker.step(indices, batch):
                    optimizer.zero_grad(); loss(model, batch).mean().backward(); optimizer.step()
        scores = tracker.contributions(hg.mean_loss(val_set))

    A step pays for the tracked samples of its own batch only: what a sample sat out is made up for in one product
    when it is sampled again.

    Args:
        model: The model being trained.
        optimizer: One of torch.optim over the model's parameters, or a registered one, new or warm.
        loss: `loss(model, batch)`: per-sample losses, shape (batch,).
        train_set: Map-style data set that the indices speak of.
        samples: Training samples to track; all if None.
        curvature: "none" (HYDRA), or "hessian": exact, every step moves every row; for a modest number of samples.
        store: Folder to keep the rows in, in a form that outlives a kill; in memory if None.
        projection: Keep random projections to about this many columns.
        dtype: float64, float32 or bfloat16; the model's if None.
        resume: Go on with the store in `store`, or start one. Steps that the store already holds are recognised by
            their samples and weights and passed over, so the loop may go on from any earlier checkpoint of its own.
        reduction: How the loop makes one number of the per-sample losses.
        collate: Makes a batch of a list of items, where the loader's is not torch's default.
        seed: What the seeds of the steps are derived from, where no Recorder has seeded them.
        batch_statistics: "exact" differentiates through the statistics of BatchNorm's batches, at one backward pass
            a tracked sample of the batch; "frozen" takes them as constants, at about a training step more for all of
            them together. The store says so.
        schedule: The options of every step, where they are known ahead (`hg.planned`): rows then need no velocity,
            half the memory and disk. They are right only once the whole schedule is done; every step is checked.
        projection_seed: Seed of the projection.
        smoothing: As `hg.attribute` takes it.
        samples_per_step: Samples of a step at most, where several micro-batches make one; rows have room for twice the
            first micro-batch, and for 256.

    Attributes:
        next_step: The step that comes next, counted from 0; steps before `steps` are passed over.

    Raises:
        RunExists: `store` holds a store and `resume` is not set.
        RecordingMismatch: `resume` with another model, data set, samples or number format.
        DiskFull: The store would not fit, computed before the first step.
        Unsupported: Optimizer, precision or module whose derivatives would be silently wrong.
        QueryError: Samples that do not exist.

    Cost: without curvature and under SGD, per-sample gradients of the batch's tracked samples; two numbers a sample and
    column (one without momentum). Under all but SGD and ASGD every step moves every row, with three numbers a sample
    and column for Adam: for a modest number of samples, and refused where they do not fit into memory.

    Source: Chen et al. 2021, section 3 and eqs. 35-36.
    """

    @in_clean_surroundings
    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: PerSampleLoss,
        train_set: Dataset[Any],
        *,
        samples: Sequence[int] | Tensor | None = None,
        curvature: Literal["none", "hessian"] = "none",
        store: str | Path | None = None,
        projection: int | None = None,
        dtype: torch.dtype | None = None,
        resume: bool = False,
        reduction: Reduction = "mean",
        collate: Collate | None = None,
        seed: int = 0,
        batch_statistics: BatchStatistics = "exact",
        schedule: Schedule | None = None,
        projection_seed: int = 0,
        smoothing: float | None = None,
        samples_per_step: int | None = None,
    ) -> None:
        together = Together(bare_optimizers(optimizer))
        if len(together.members) > 1:
            raise Unsupported(
                f"Rows are kept under one optimizer, got {len(together.members)}. Record the run, and use hg.attribute."
            )
        (rule,), (optimizer,) = together.rules, together.members
        require_one_process(model, "hg.Tracker", "Record the run with hg.Recorder, and use hg.hypergradients(run).")
        model = bare_model(model)
        require_differentiable(model)
        require_map_style(train_set)
        require_sound(curvature, projection, batch_statistics, rule)
        if schedule is not None and curvature == "hessian":
            raise QueryError("A planned schedule has coefficients without curvature only: leave it out with 'hessian'.")
        if schedule is not None and rule.closed_form is None:
            raise QueryError(
                f"A planned schedule gives coefficients where every coordinate of a row moves alike; under "
                f"{rule.torch_class.__name__} each moves in its own way. Leave schedule= out."
            )
        require_dense(dict(model.named_buffers()), None if store is None else Path(store))
        if resume and store is None:
            raise ValueError("resume=True goes on with a store on disk: give store=, the folder.")
        self._model, self._optimizer, self._loss, self._train_set = model, optimizer, loss, train_set
        self._folder = None if store is None else Path(store).absolute()
        self._resume, self._collate, self._seed = resume, collate, seed
        self._samples_per_step, self._rules = samples_per_step, together.rules
        self._length = len(train_set)  # type: ignore[arg-type]
        self._block = StepBlock(
            model,
            together,
            owner="Tracker",
            length=self._length,
            reduction=reduction,
            state=lambda: state_norm(optimizer),
            shares_seed=True,
        )
        watch = self._block.watch
        like = next(model.parameters()).detach()
        self._device = like.device
        groups = [names for names in watch.groups() if names]
        parameters = watch.parameters
        weights = Layout({name: parameters[name].shape for names in groups for name in names})
        moving = running_statistics(model) if curvature == "hessian" else set()
        statistics = Layout({name: b.shape for name, b in model.named_buffers() if name in moving})
        kind = storage(dtype, like.dtype)
        self._tracked = Tracked(
            model=model,
            loss=loss,
            facts=StoreFacts(
                model=model_facts(model),
                data=data_fingerprint(train_set),
                parameters={name: list(shape) for name, shape in weights.shapes.items()},
                statistics={name: list(shape) for name, shape in statistics.shapes.items()},
                groups=[list(names) for names in groups],
                dtype=str(kind).removeprefix("torch."),
                projection=None if projection is None else {"dims": projection, "seed": projection_seed},
                curvature=curvature,
                batch_statistics=batch_statistics,
                schedule=fingerprint(schedule),
                steps=0,
                completed=False,
                optimizer=rule.name,
                ages=_ages(rule, optimizer, parameters),
                smoothing=smoothing_share(rule, smoothing),
                notes=notes(model, curvature, batch_statistics),
            ),
            sample_ids=checked_samples(samples, self._length),
            length=self._length,
            weights=weights,
            statistics=statistics,
            projector=make_projector(weights, groups, projection, projection_seed, like, kind),
            schedule=schedule,
            groups=watch.groups(),
            optimizer=optimizer,
            folder=self._folder,
        )
        if schedule is not None:  # refused here rather than at the first step
            self._tracked.recurrence(states=0)
        self._rows = OnlineRows(self._tracked)
        self.next_step = 0
        self._open = self._found_place = False
        self._known: list[StepRecord] = []
        self._last: StepRecord | None = None
        self._store: Store | None = None
        self._trajectory: Trajectory | None = None
        self._batches = OwnBatches()
        self._outside = OutsideState(model, loss)
        self._last_batch: StepBatch | None = None
        self._step_batches: list[StepBatch] = []  # of the present step
        self._start: Checkpoint | None = None  # before it, where it is checked

    @in_clean_surroundings
    def __enter__(self) -> Self:
        folder = self._folder
        if self._resume and folder is not None:
            self._take_ages_of(folder)
        tracked = self._tracked
        if self._resume and folder is not None and (folder / FILE).exists():
            self._store = Store.open(folder, self._model, self._loss, collate=self._collate)
            require_same_store(folder, tracked.facts, tracked.sample_ids, self._store)
            self._known = read_log(folder, self._store.facts.steps)
        elif self._resume and folder is not None and is_growing(folder):
            require_same_store(folder, tracked.facts, tracked.sample_ids)
            self._known = self._rows.go_on(folder)
            self._last = self._known[-1] if self._known else None
        # New rows are laid out at the first step, when momentum and batch size are known.
        elif folder is not None:
            require_no_store(folder)
        self._block.open(self._seed, self._rows.at_update, self._rows.at_transform)
        self._open = True
        self._outside.begin()
        return self

    @in_clean_surroundings
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        self._block.close()
        self._rows.close()
        if kind is None and self._last_batch is not None:
            last = self._last_batch
            self._outside.require_none(lambda: [last()])
        if kind is None:
            self._block.watch.rest.require_untouched_at_the_end(self.next_step)
        # An interrupted store on disk stays as it is, to be gone on with.
        growing = self._rows.growing
        whole = growing is not None and self.next_step == growing.table.steps and self._schedule_done
        if growing is not None and whole and (kind is None or self._folder is None):
            final = {name: value.clone() for name, value in model_state(self._model).items()}
            self._store = finish(growing, *self._own, final, self._collate, completed=kind is None)

    @property
    def steps(self) -> int:
        """Steps that the store takes into account."""
        growing = self._rows.growing
        return len(self._known) if growing is None else growing.table.steps

    @property
    def route(self) -> str:
        """How samples' gradients are made (layers, vjp, frozen; exact with curvature); none before any step."""
        return self._rows.route

    @property
    def _own(self) -> tuple[StoreFacts, Tensor, nn.Module, PerSampleLoss]:
        return self._tracked.facts, self._tracked.sample_ids, self._model, self._loss

    @property
    def _schedule_done(self) -> bool:
        return self._tracked.schedule is None or self.steps == len(self._tracked.schedule)

    @property
    @in_clean_surroundings
    def store(self) -> Store:
        """The store, once the loop is over; of an interrupted one on disk, as it was after its last complete step.

        Raises:
            StepError: The loop is not over, or made no step.
        """
        if self._store is None and not self._open and self._rows.growing is not None:
            self._store = self._unfinished(self._rows.growing)
        if self._store is None:
            raise StepError("The tracker's store is there once its block was left and at least one step was made.")
        return self._store

    def _unfinished(self, growing: GrowingRows) -> Store | None:
        if not self._schedule_done:
            raise StepError(unfinished_schedule(self.steps, self._tracked.facts))
        return None if self._folder is None else opened_unfinished(growing, *self._own, self._collate)

    @in_clean_surroundings
    def contributions(self, queries: Query | Sequence[Query], **options: Any) -> Answer:
        """Contributions of the tracked samples to any queries, once the loop is over: `Store.contributions`.

        Args:
            queries: One or several.
            options: `out=`, `top=` and `memory=`, as there.

        Returns:
            Scores, or what `out` and `top` ask for.

        Raises:
            StepError: The loop is not over, or made no step.
        """
        return self.store.contributions(queries, **options)

    @contextmanager
    def step(self, indices: Sequence[int] | Tensor, batch: Any = None) -> Iterator[StepHandle]:
        """Track one optimizer step on `train_set[i] for i in indices`.

        Args:
            indices: The samples of the batch, in their order.
            batch: The batch itself; fetched again from the training set where it is needed and not given.

        Raises:
            StepError: Not exactly one optimizer step inside, or weights or optimizer state changed since the last one.
            ReplayMismatch: The loop does something that the tracker does not know, or continues from a state that the
                store has not seen.
            NonFinite: The weights became NaN or infinite.
        """
        samples = self._block.samples(indices)
        alone = step_seed() is None  # else the loop is checked already
        if alone:
            self._block.watch.rest.require_untouched(self.next_step)
        self._find_place(samples)
        part = self._block.micro_batch(self.next_step, indices, samples)
        own = self._batches.own(batch, original_is_evaluated=True)  # the loop may change it
        step_batch = self._step_batch(part, own.data)
        with naming_batch_of_one(len(samples)):
            self._before(step_batch, part, alone=alone)
            with self._block.watched(part):
                yield StepHandle(lambda data: self._block.losses(self._loss, data))
        self._batches.evaluated(own)
        self._last_batch = step_batch
        record = self._block.record(self.next_step)
        self._after_micro_batch(step_batch, record)
        if record is None:
            return
        self._last = record
        self.next_step += 1
        if alone:
            self._block.watch.rest.go_on()

    @in_clean_surroundings
    def _step_batch(self, part: MicroBatch, data: Any) -> StepBatch:
        constants = {}
        if self._tracked.exact:
            constants = {
                name: buffer.clone()
                for name, buffer in self._model.named_buffers()
                if name not in self._tracked.statistics.shapes and buffer.is_floating_point()
            }
        return StepBatch(
            train_set=self._train_set,
            indices=part.indices,
            data=data,
            batch_seed=part.batch_seed,
            seed=part.seed,
            collate=self._collate,
            device=self._device,
            constants=constants,
        )

    @in_clean_surroundings
    def _before(self, step_batch: StepBatch, part: MicroBatch, *, alone: bool) -> None:
        """Everything that needs the state before a micro-batch."""
        if self._block.pending == 0:
            self._rows.forget()
            self._step_batches, self._start = [], None
        self._step_batches.append(step_batch)
        if self.next_step < self.steps:
            return
        if self._store is not None:
            raise StepError(
                f"The store in {self._folder} is finished; it can't take further steps. Choose another folder."
            )
        if self._rows.growing is None:
            self._rows.begin(self._samples_per_step or 2 * len(step_batch.indices))
        self._rows.before(step_batch, part)
        # With a Recorder the loop is checked already; alone at steps 0, 1, 2, 4, 8, ...
        due = self.next_step & (self.next_step - 1) == 0
        if alone and due and self._block.pending == 0:
            self._start = snapshot(self.next_step, self._model, self._optimizer)

    @in_clean_surroundings
    def _after_micro_batch(self, step_batch: StepBatch, record: StepRecord | None) -> None:
        """Take the terms of a micro-batch, whose coefficients are known now, and complete the step with the last."""
        if self.next_step < self.steps:
            if record is not None:
                require_same_step(self._known[record.step], record)
            return
        if record is not None:
            self._require_sound(record)
        if self._block.watch.earlier is Earlier.CLEARED:
            self._rows.drop()
        self._rows.take(step_batch, self._block.latest if record is None else record.micro_batches[-1])
        if record is not None:
            self._rows.after(record, self._last)

    def _require_sound(self, record: StepRecord) -> None:
        """Refuse a step that is not finite or, where the loop is not checked already, can't be replayed."""
        if not math.isfinite(record.state):
            raise NonFinite(
                f"The weights became NaN or infinite at step {record.step}: the run diverged. Lower the rate "
                f"({record.rate}); the rows are those of the step before."
            )
        if self._start is None:
            return

        def batches() -> list[Batch]:
            return [step_batch() for step_batch in self._step_batches]

        with preserved(), self._outside.named_where(batches):
            watch = self._block.watch
            self._trajectory = self._trajectory or Trajectory(self._model, self._loss, self._rules)
            check_one_step(self._trajectory, self._start, record, batches(), watch.parameters)
        self._outside.require_none(batches)

    def _take_ages_of(self, folder: Path) -> None:
        """The rows' own start decides how far parameters were, not the checkpoint from which the loop goes on."""
        begun = None
        if (folder / FILE).exists():
            begun, _ = read_facts(folder)
        elif is_growing(folder):
            begun, _ = read_growing(folder)
        if begun is not None:
            facts = replace(self._tracked.facts, ages=begun.ages)
            self._tracked = replace(self._tracked, facts=facts)
            self._rows = OnlineRows(self._tracked)

    def _find_place(self, samples: list[int]) -> None:
        """After a resume, once: recognise at which of the known steps the loop continues."""
        if self._found_place or not self._known:
            return
        self._found_place = True
        self.next_step = place_among(self._known, samples, state_norm(self._optimizer), self._folder)


def _ages(rule: StepRule, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """Parameters that have made steps already, and how far they are."""
    ages = {name: rule.age(optimizer.state.get(parameter, {})) for name, parameter in parameters.items()}
    return {name: age for name, age in ages.items() if age != rule.age({})}
