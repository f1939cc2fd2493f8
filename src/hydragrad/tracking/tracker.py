"""The Tracker: the paper's online algorithm, while the user trains."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from hydragrad.derivatives import (
    Batch,
    BatchStatistics,
    Layout,
    PerSampleLoss,
    require_differentiable,
    running_statistics,
)
from hydragrad.errors import NonFinite, QueryError, ReplayMismatch, StepError, Unsupported
from hydragrad.randomness import BATCH, preserved, seeded, step_seed, stream_seed
from hydragrad.recording import Indices, StepHandle, StepRecord, fetch, require_map_style
from hydragrad.recording.checkpoints import Checkpoint, snapshot
from hydragrad.recording.data import Collate, data_fingerprint, to_device
from hydragrad.recording.files import AppendOnlyLines, read_lines
from hydragrad.recording.log import from_lines, to_line
from hydragrad.recording.manifest import Reduction, model_facts
from hydragrad.recording.replay import first_trained_norm
from hydragrad.recording.trajectory import Trajectory
from hydragrad.recording.verifying import check_one_step
from hydragrad.recording.watching import Watch, checked_batch
from hydragrad.scores import Query, checked_samples
from hydragrad.steps import require_supported
from hydragrad.tracking.asking import Answer
from hydragrad.tracking.building import (
    GROWING,
    LOG,
    finish,
    make_projector,
    model_state,
    new_table,
    opened_unfinished,
    require_no_store,
    require_same_store,
    storage,
    unfinished_schedule,
)
from hydragrad.tracking.columns import Columns
from hydragrad.tracking.exact import ExactTangents, Tangents
from hydragrad.tracking.gradients import StepGradients
from hydragrad.tracking.growing import GrowingRows
from hydragrad.tracking.lanes import GrowingLanes
from hydragrad.tracking.options import notes, require_sound
from hydragrad.tracking.recurrence import Lazy, Recurrence
from hydragrad.tracking.schedule import Schedule, Told, fingerprint
from hydragrad.tracking.store import DTYPES, FILE, Store, StoreFacts
from hydragrad.tracking.table import Table


class Tracker:
    """Carries d(weights)/d(sample weight) of tracked samples along while the user trains, under any schedule.

    Use it as a context manager around the loop, alone or beside a Recorder, with `step` around every optimizer step:

        with hg.Tracker(model, optimizer, loss, train_set) as tracker:
            for indices, batch in hg.indexed(loader):
                with tracker.step(indices, batch):
                    optimizer.zero_grad(); loss(model, batch).mean().backward(); optimizer.step()
        scores = tracker.contributions(hg.mean_loss(val_set))

    A step pays for the tracked samples of its own batch only: what a sample sat out is made up for in one product
    when it is drawn again.

    Args:
        model: The model being trained.
        optimizer: A torch.optim.SGD over the model's parameters, new or warm.
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

    Attributes:
        next_step: The step that comes next, counted from 0; steps before `steps` are passed over.

    Raises:
        RunExists: `store` holds a store and `resume` is not set.
        RecordingMismatch: `resume` with another model, data set, samples or number format.
        DiskFull: The store would not fit, computed before the first step.
        Unsupported: Optimizer, precision or module whose derivatives would be silently wrong.
        QueryError: Samples that do not exist.

    Cost: without curvature, per-sample gradients of the batch's tracked samples; two numbers a sample and column
    (one without momentum).

    Source: Chen et al. 2021, section 3 and eqs. 35-36.
    """

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
    ) -> None:
        require_supported(optimizer)
        require_differentiable(model)
        require_map_style(train_set)
        require_sound(curvature, projection, batch_statistics)
        if schedule is not None and curvature == "hessian":
            raise QueryError(
                "A schedule told ahead has coefficients without curvature only: leave it out with 'hessian'."
            )
        if resume and store is None:
            raise ValueError("resume=True goes on with a store on disk: give store=, the folder.")
        self._model, self._optimizer, self._loss, self._train_set = model, optimizer, loss, train_set
        self._folder = None if store is None else Path(store)
        self._resume, self._reduction, self._collate, self._seed = resume, reduction, collate, seed
        self._length = len(train_set)  # type: ignore[arg-type]
        self._sample_ids = checked_samples(samples, self._length)
        self._watch = Watch(model, optimizer, "tracker.step()")
        self._like = next(model.parameters()).detach()
        groups = [names for names in self._watch.groups() if names]
        parameters = self._watch.parameters
        self._weights = Layout({name: parameters[name].shape for names in groups for name in names})
        moving = running_statistics(model) if curvature == "hessian" else set()
        self._statistics = Layout({name: b.shape for name, b in model.named_buffers() if name in moving})
        kind = storage(dtype, self._like.dtype)
        self._projector = make_projector(self._weights, groups, projection, projection_seed, self._like, kind)
        self._facts = StoreFacts(
            model=model_facts(model),
            data=data_fingerprint(train_set),
            parameters={name: list(shape) for name, shape in self._weights.shapes.items()},
            statistics={name: list(shape) for name, shape in self._statistics.shapes.items()},
            groups=[list(names) for names in groups],
            dtype=str(kind).removeprefix("torch."),
            projection=None if projection is None else {"dims": projection, "seed": projection_seed},
            curvature=curvature,
            batch_statistics=batch_statistics,
            schedule=fingerprint(schedule),
            steps=0,
            completed=False,
            warm=[
                name for name, p in parameters.items() if optimizer.state.get(p, {}).get("momentum_buffer") is not None
            ],
            notes=notes(model, curvature, batch_statistics),
        )
        self._schedule = schedule
        if schedule is not None:  # refused here rather than at the first step
            self._recurrence(momentum=False)
        self.next_step = 0
        self._open = self._in_step = False
        self._known: list[StepRecord] = []
        self._found_place = False
        self._last: StepRecord | None = None
        self._store: Store | None = None
        self._growing: GrowingRows | None = None
        self._gradients: StepGradients | None = None
        self._exact: ExactTangents | None = None
        self._trajectory: Trajectory | None = None
        self._log: AppendOnlyLines | None = None

    def __enter__(self) -> Self:
        if self._resume and self._folder is not None and (self._folder / FILE).exists():
            self._store = Store.open(self._folder, self._model, self._loss, collate=self._collate)
            require_same_store(self._folder, self._facts, self._sample_ids, self._store)
            self._known = list(from_lines(read_lines(self._folder / LOG, "steps")))
        elif self._resume and self._folder is not None and (self._folder / GROWING).exists():
            self._go_on(self._folder)
        # A new table is laid out at the first step, when momentum and batch size are known.
        elif self._folder is not None:
            require_no_store(self._folder)
        self._watch.attach()
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
        if self._gradients is not None:
            self._gradients.close()
        if self._log is not None:
            self._log.close()
        # An interrupted store on disk stays as it is, to be gone on with.
        whole = self._growing is not None and self.next_step == self._growing.table.steps
        if self._growing is not None and whole and self._schedule_done and (kind is None or self._folder is None):
            self._store = finish(
                self._growing,
                self._facts,
                self._sample_ids,
                self._model,
                self._loss,
                {name: value.clone() for name, value in model_state(self._model).items()},
                self._collate,
                completed=kind is None,
            )

    @property
    def steps(self) -> int:
        """Steps that the store takes into account."""
        if self._growing is not None:
            return self._growing.table.steps
        return len(self._known)

    @property
    def _schedule_done(self) -> bool:
        return self._schedule is None or self.steps == len(self._schedule)

    @property
    def store(self) -> Store:
        """The store, once the loop is over; of an interrupted one on disk, as it was after its last complete step.

        Raises:
            StepError: The loop is not over, or made no step.
        """
        if self._store is None and not self._open and self._growing is not None and not self._schedule_done:
            raise StepError(unfinished_schedule(self.steps, self._facts))
        if self._store is None and not self._open and self._growing is not None and self._folder is not None:
            self._store = opened_unfinished(
                self._growing, self._facts, self._sample_ids, self._model, self._loss, self._collate
            )
        if self._store is None:
            raise StepError("The tracker's store is there once its block was left and at least one step was made.")
        return self._store

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
            batch: The batch itself; drawn again from the training set where it is needed and not given.

        Raises:
            StepError: Not exactly one optimizer step inside.
            ReplayMismatch: The loop does something that the tracker does not know, or goes on from a state that the
                store has not seen.
            NonFinite: The weights became NaN or infinite.
        """
        if not self._open or self._in_step:
            raise StepError("tracker.step() belongs inside `with Tracker(...)`, one block a step, never nested.")
        chosen = checked_batch(indices, self._length)
        self._find_place(chosen)
        outer = step_seed()
        seed = stream_seed(self._seed, self.next_step) if outer is None else outer
        batch_seed = indices.batch_seed if isinstance(indices, Indices) else None
        draws = stream_seed(self._seed, self.next_step, BATCH) if batch_seed is None else batch_seed
        drawn = _Drawn(self, chosen, batch, draws, seed)
        start = self._before(chosen, drawn, alone=outer is None)
        self._in_step = True
        self._watch.begin()
        try:
            with ExitStack() as stack:
                if outer is None:
                    stack.enter_context(seeded(seed))
                yield StepHandle()
        finally:
            self._in_step = False
            self._watch.end()
        self._watch.require_one_step()
        structure = self._watch.structure(None if self._last is None else self._last.structure)
        values = {name: parameter.detach() for name, parameter in self._watch.parameters.items()}
        norm = first_trained_norm(values, structure)
        record = StepRecord(self.next_step, chosen, draws, self._watch.options, structure, norm, None)
        self._after(record, drawn, start, values)
        self._last = record
        self.next_step += 1

    def _before(self, chosen: list[int], drawn: "_Drawn", *, alone: bool) -> Checkpoint | None:
        """Everything that needs the weights before the step."""
        if self.next_step < self.steps:
            return None
        if self._store is not None:
            raise StepError(
                f"The store in {self._folder} is finished; it can't take further steps. Choose another folder."
            )
        if self._growing is None:
            self._start(len(chosen))
        assert self._growing is not None
        divisor = float(len(chosen)) if self._reduction == "mean" else 1.0
        with preserved():
            if self._facts.curvature == "hessian":
                self._tangents = self._exact_tangents(self._growing, chosen, drawn(), divisor)
            else:
                if self._gradients is None:
                    self._gradients = StepGradients(
                        self._model, self._loss, self._weights, self._projector, self._facts.batch_statistics
                    )
                positions = self._growing.positions(chosen)
                self._gradients.before(len(chosen), positions, drawn, divisor)
        # Beside a Recorder the loop is checked already; alone at steps 0, 1, 2, 4, 8, ...
        due = self.next_step & (self.next_step - 1) == 0
        return snapshot(self.next_step, self._model, self._optimizer) if alone and due else None

    def _after(self, record: StepRecord, drawn: "_Drawn", start: Checkpoint | None, values: dict[str, Tensor]) -> None:
        if record.step < self.steps:
            self._require_known(record)
            return
        assert self._growing is not None
        if not math.isfinite(record.norm):
            raise NonFinite(
                f"The weights became NaN or infinite at step {record.step}: the run diverged. Lower the rate "
                f"({record.options[0]['lr']}); the rows are those of the step before."
            )
        if start is not None:
            with preserved():
                self._trajectory = self._trajectory or Trajectory(self._model, self._loss, self._reduction)
                check_one_step(self._trajectory, start, record, drawn(), values)
        if self._log is not None:
            self._log.append(to_line(record, self._last))
        state = model_state(self._model) if self._folder is not None else {}
        if self._facts.curvature == "hessian":
            self._require_constant_buffers(drawn)
            self._growing.add_to_all(record, self._tangents.g_dot, self._tangents.r_dot, state)
        else:
            assert self._gradients is not None
            self._growing.add(record, self._gradients.after(), state)

    def _exact_tangents(self, growing: GrowingRows, chosen: list[int], batch: Batch, divisor: float) -> Tangents:
        if self._exact is None:
            self._exact = ExactTangents(self._model, self._loss, self._weights, self._statistics)
        rows = growing.table.read(np.arange(growing.table.shape[0]))[0].to(self._like)
        w_dot, r_dot = rows.split([self._weights.size, self._statistics.size], 1)
        alpha_dot = (torch.tensor(chosen) == self._sample_ids[:, None]).to(w_dot)
        state = model_state(self._model)
        parameters = {name: state[name] for name in self._watch.parameters}
        buffers = {name: state[name] for name, _ in self._model.named_buffers()}
        return self._exact(parameters, buffers, batch, divisor, w_dot, r_dot, alpha_dot)

    def _require_constant_buffers(self, drawn: "_Drawn") -> None:
        moved = [
            name for name, value in drawn.constants.items() if not torch.equal(value, self._model.get_buffer(name))
        ]
        if moved:
            raise Unsupported(
                f"The buffers {', '.join(moved)} update themselves during training in a way that is not BatchNorm's, "
                f"so their derivative is not known. Use curvature='none', which treats buffers as constants."
            )

    def _start(self, size: int) -> None:
        exact, momentum = self._facts.curvature == "hessian", any(g["momentum"] for g in self._optimizer.param_groups)
        recurrence = self._recurrence(momentum=momentum)
        table = new_table(
            self._folder,
            self._facts,
            self._sample_ids,
            width=self._width(),
            accumulators=recurrence.accumulators,
            room=len(self._sample_ids) if exact else max(256, 2 * size),
            state=model_state(self._model),
        )
        self._growing = self._rows(table, recurrence)
        if self._folder is not None:
            self._log = AppendOnlyLines(self._folder / LOG)

    def _go_on(self, folder: Path) -> None:
        require_same_store(folder, self._facts, self._sample_ids)
        table = Table.open(folder, DTYPES[self._facts.dtype])
        self._known = list(from_lines(read_lines(folder / LOG, "steps")))[: table.steps]
        self._log = AppendOnlyLines(folder / LOG, keep=table.steps)
        self._growing = self._rows(table, self._recurrence(momentum=table.accumulators == 2))
        for record in self._known:
            self._growing.pass_over(record)
        self._last = self._known[-1] if self._known else None

    def _recurrence(self, *, momentum: bool) -> Recurrence:
        if self._schedule is not None:
            columns = Columns(self._weights, self._projector)
            return Told(columns, self._schedule, self._watch.groups(), self._facts.warm)
        lanes = GrowingLanes(self._facts.groups, self._facts.warm, fixed=self._projector is not None)
        return Lazy(Columns(self._weights, self._projector), lanes, momentum=momentum)

    def _rows(self, table: Table, recurrence: Recurrence) -> GrowingRows:
        return GrowingRows(table, recurrence, self._sample_ids, self._length, statistics=self._statistics.size)

    def _width(self) -> int:
        return Columns(self._weights, self._projector).width + self._statistics.size

    def _find_place(self, chosen: list[int]) -> None:
        """After a resume, once: recognise at which of the known steps the loop goes on."""
        if self._found_place or not self._known:
            return
        self._found_place = True
        values = {name: parameter.detach() for name, parameter in self._watch.parameters.items()}
        for step in range(len(self._known), -1, -1):
            same_batch = step == len(self._known) or self._known[step].indices == chosen
            before = self._known[step - 1] if step else None
            if same_batch and (before is None or first_trained_norm(values, before.structure) == before.norm):
                self.next_step = step
                return
        raise ReplayMismatch(
            f"The loop goes on from weights that the store in {self._folder} has not seen, or with another batch. "
            f"Resume it from a checkpoint of the same run, or choose another folder."
        )

    def _require_known(self, record: StepRecord) -> None:
        known = self._known[record.step]
        if known.indices != record.indices or known.norm != record.norm:
            raise ReplayMismatch(
                f"Step {record.step} was repeated otherwise than the store has it (other samples or other weights), so "
                f"the two can't be one run. Seed what the loop draws, or start again in another folder."
            )


class _Drawn:
    """A step's data, drawn when first needed."""

    def __init__(self, tracker: Tracker, chosen: list[int], data: Any, draws: int, seed: int) -> None:
        self._tracker, self._chosen, self._data, self._draws, self._seed = tracker, chosen, data, draws, seed
        self.constants = {}
        if tracker._facts.curvature == "hessian":
            self.constants = {
                name: buffer.clone()
                for name, buffer in tracker._model.named_buffers()
                if name not in tracker._statistics.shapes and buffer.is_floating_point()
            }

    def __call__(self) -> Batch:
        tracker, device = self._tracker, self._tracker._like.device
        if self._data is None:
            self._data = fetch(
                tracker._train_set, self._chosen, seed=self._draws, collate=tracker._collate, device=device
            )
        return Batch(to_device(self._data, device), len(self._chosen), self._seed)
