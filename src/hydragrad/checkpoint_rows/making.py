"""`influence_rows`: one row a sample and checkpoint, for queries that come later.

    tracin            row = -rate g                          what a step of descent on the sample does to the weights
    nystrom, ekfac    row = -(G + damping)^-1 g / (N T)      what its weight does to them by influence functions

with g the gradient of the sample's loss, G the Gauss-Newton matrix, N samples and T checkpoints. As with a row of
hypergradients, -(row . gradient of a query) is the contribution, summed over checkpoints.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.attribution.averaged_over import AveragedOver, averaged_over, in_a_range
from hydragrad.attribution.gauss_newton_matrix import DAMPING_SHARE, TOLERANCE, DampedGaussNewton
from hydragrad.attribution.gradients_at import GradientsAt
from hydragrad.attribution.influence import MATRIX, require_solvable
from hydragrad.attribution.tracin import rates_at
from hydragrad.checkpoint_rows.plan import RowsMethod, RowsPlan, read_solved, write_solved
from hydragrad.checkpoint_rows.store import InfluenceStore
from hydragrad.derivatives import Projector
from hydragrad.disk import content_digest, make_folder, writing
from hydragrad.errors import QueryError, Unsupported
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Recording, samples_in
from hydragrad.replay.data import data_fingerprint
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.manifest import model_facts
from hydragrad.scores import Evidence, Note, Solved, checked_samples
from hydragrad.scores.evidence import INFLUENCE, TRACIN
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.tracking import Store
from hydragrad.tracking.facts import FILE, StoreFacts
from hydragrad.tracking.new_store import make_projector, require_memory, storage
from hydragrad.tracking.rows.table import NUMPY_TYPES, require_disk, to_numpy
from hydragrad.tracking.store_files import ROWS
from hydragrad.trained_elsewhere import Checkpoints

COMPARED = 16
"""Samples of every checkpoint at which it is measured what an approximate inverse leaves."""


@in_clean_surroundings
def influence_rows(
    run: Recording | Checkpoints,
    *,
    method: RowsMethod = "nystrom",
    checkpoints: int = 10,
    damping: float | None = None,
    rates: float | Sequence[float] | None = None,
    samples: Sequence[int] | Tensor | None = None,
    projection: int | None = None,
    store: str | Path | None = None,
    dtype: torch.dtype | None = None,
    projection_seed: int = 0,
) -> InfluenceStore:
    """Rows of training samples at checkpoints, for later queries without another pass over the training set.

    Args:
        run: The recorded run, or checkpoints of a model trained elsewhere.
        method: "nystrom" and "ekfac" are influence functions by an approximate inverse of the Gauss-Newton matrix; the
            evidence says what it leaves. "tracin" needs no curvature: rate x gradient.
        checkpoints: How many, at most, as for `influence`.
        damping: As for `influence`.
        rates: For TracIn, as `tracin` takes them.
        samples: Training samples; all if None.
        projection: Store random projections to about this many columns a checkpoint; contributions then carry noise,
            which their standard errors say.
        store: Folder of the rows; in memory if None. Called again after an interruption it resumes at the checkpoint
            where it stopped.
        dtype: float64, float32 or bfloat16; the model's if None.
        projection_seed: Seed of the projection.

    Raises:
        QueryError: An unknown method, or options that belong to another one; ids that do not exist.
        DiskFull, NotEnoughMemory: The rows would not fit, before any work.
        RunExists: `store` holds finished rows.
        RecordingMismatch: `store` holds unfinished rows of something else.
        Unsupported: `run` is neither; or an approximate inverse can't be had.

    Cost: at every checkpoint a gradient a sample, and one Gauss-Newton product of 32 vectors (nystrom) or two passes
    over the samples (ekfac). samples x checkpoints x columns numbers.

    Source: Pruthi et al., NeurIPS 2020 (TracIn); Frangella, Tropp and Udell 2023 (Nystrom); George et al. 2018
    (EK-FAC).
    """
    _require_options(method, damping, rates, projection)
    over = averaged_over(run, checkpoints, "influence_rows")
    ids = checked_samples(samples, samples_in(run))
    factors = rates_at(run, over, rates) if method == "tracin" else [1 / len(over)] * len(over)
    like = next(iter(run.final.parameters.values()))
    number_format = storage(dtype, like.dtype)
    plan = RowsPlan(
        method=method,
        checkpoints=over.called,
        weights=tuple(_digest(read()) for read in over.read),
        factors=tuple(factors),
        damping=damping,
        data=data_fingerprint(run.train_set),
        samples=zlib.crc32(ids.numpy().tobytes()),
        dtype=str(number_format).removeprefix("torch."),
        projection=None if projection is None else {"dims": projection, "seed": projection_seed},
    )
    making = _Making(run, over, plan, ids, number_format, None if store is None else Path(store).absolute())
    return making.all_checkpoints()


class _Row(NamedTuple):
    """What makes rows at a checkpoint, and what it leaves of a gradient."""

    of_gradients: Callable[[Tensor], Tensor]
    solved: Solved | None


class _Making:
    def __init__(
        self,
        run: Recording | Checkpoints,
        over: AveragedOver,
        plan: RowsPlan,
        ids: Tensor,
        number_format: torch.dtype,
        root: Path | None,
    ) -> None:
        self._run, self._over, self._plan, self._ids, self._root = run, over, plan, ids, root
        self._format = number_format
        if root is not None:
            make_folder(root)
            plan.require_new(root)
        self._require_room()
        if root is not None:
            plan.begin(root)

    def all_checkpoints(self) -> InfluenceStore:
        stores, solves = [], []
        with bar("influence rows", len(self._over) * len(self._ids), unit="gradients") as progress:
            for number, read in enumerate(self._over.read):
                folder = None if self._root is None else self._plan.folder(self._root, number)
                if folder is not None and (folder / FILE).exists():
                    stores.append(Store.open(folder, self._run.model, self._run.loss, collate=self._run.collate_fn))
                    solved = read_solved(folder)
                else:
                    made, solved = self._one(read(), number, folder, progress.advance)
                    stores.append(made)
                solves += [] if solved is None else [solved]
        evidence = self._evidence(solves, stores[-1].rows.shape[1])
        if self._root is not None:
            self._plan.finish(self._root, evidence)
        return InfluenceStore(self._plan, stores, evidence)

    def _one(
        self, at: Checkpoint, number: int, folder: Path | None, advance: Callable[[int], object]
    ) -> tuple[Store, Solved | None]:
        run, ids = self._run, self._ids
        facts = self._facts(number)
        projector = self._projector(facts)
        direct = self._plan.method == "tracin"
        gradients = GradientsAt(run, self._over.layout, at, projector if direct else None)
        make = self._rows_of(at, number, gradients)
        width = self._over.layout.size if projector is None else projector.width
        rows = self._empty(folder, width)
        start = 0
        for some, block in gradients.blocks(ids):
            made = make.of_gradients(block)
            made = made if projector is None or direct else projector.flat(made)
            rows[start : start + len(some)] = to_numpy(made, self._format)
            start += len(some)
            advance(len(some))
        final = dict(at.parameters) | dict(at.buffers)
        finished = Store(run.model, run.loss, facts, rows, ids, final, path=folder, collate=run.collate_fn)
        if folder is not None:
            write_solved(folder, make.solved)
            finished.finish(folder)
        return finished, make.solved

    def _rows_of(self, at: Checkpoint, number: int, gradients: GradientsAt) -> _Row:
        """How gradients of samples become rows at a checkpoint."""
        plan, factor = self._plan, self._plan.factors[number]
        if plan.method == "tracin":
            return _Row(lambda block: -factor * block, None)
        with preserved():
            matrix = DampedGaussNewton(
                self._run, self._over.layout, at, plan.damping, MATRIX, preconditioner=plan.method
            )
            about = matrix.approximation
            if about is None:
                raise Unsupported(f"method={plan.method!r} can't be had here: {matrix.why_not}. Take method='tracin'.")
            some = self._ids[torch.randperm(len(self._ids), generator=torch.Generator().manual_seed(0))[:COMPARED]]
            left = max(matrix.solve(block, 0).residual for _, block in gradients.blocks(some))
        solved = Solved(
            at=plan.checkpoints[number],
            damping=matrix.damping,
            share=DAMPING_SHARE if plan.damping is None else None,
            preconditioner=plan.method,
            iterations=0,
            tolerance=TOLERANCE,
            residual=left,
        )
        scale = -factor / samples_in(self._run)
        return _Row(lambda block: scale * about.inverse(block, matrix.damping), solved)

    def _facts(self, number: int) -> StoreFacts:
        plan, layout = self._plan, self._over.layout
        projection = plan.projection
        return StoreFacts(
            model=model_facts(self._run.model),
            data=plan.data,
            parameters={name: list(shape) for name, shape in layout.shapes.items()},
            groups=[list(layout.names)],
            dtype=plan.dtype,
            # Every checkpoint has a projection of its own, so that their errors average out.
            projection=projection and {"dims": projection["dims"], "seed": projection["seed"] + number},
            steps=0,
            completed=True,
            notes=[f"Rows by {plan.method} of one of {len(plan.checkpoints)} checkpoints of an hg.InfluenceStore."],
        )

    def _projector(self, facts: StoreFacts) -> Projector | None:
        if facts.projection is None:
            return None
        like = next(iter(self._run.final.parameters.values())).to(self._run.device)
        dims, seed = facts.projection["dims"], facts.projection["seed"]
        return make_projector(self._over.layout, facts.groups, dims, seed, like, self._format)

    def _empty(self, folder: Path | None, width: int) -> NDArray[Any]:
        shape, kind = (len(self._ids), width), NUMPY_TYPES[self._format]
        if folder is None:
            return np.zeros(shape, dtype=kind)
        make_folder(folder)
        with writing(folder):
            rows: NDArray[Any] = np.lib.format.open_memmap(folder / ROWS, mode="w+", dtype=kind, shape=shape)
        return rows

    def _require_room(self) -> None:
        """Refuse rows that would not fit into memory, or on the disk."""
        projector = self._projector(self._facts(0))
        width = self._over.layout.size if projector is None else projector.width
        count, number = len(self._ids), self._plan
        if self._root is None:
            require_memory(None, self._facts(0), count * len(self._over), width, 1, every_row=False)
            return
        missing = sum(not (number.folder(self._root, at) / FILE).exists() for at in range(len(self._over)))
        require_disk(self._root, missing * count * width * np.dtype(NUMPY_TYPES[self._format]).itemsize)

    def _evidence(self, solves: Sequence[Solved], width: int) -> Evidence:
        plan = self._plan
        if plan.method == "tracin":
            where = self._over.in_words.replace("averaged over", "summed over")
            text = f"Rows of TracIn, without curvature, {where}; rates {in_a_range(plan.factors)}."
        else:
            left = in_a_range(one.residual for one in solves)
            text = (
                f"Influence functions, Gauss-Newton, {self._over.in_words}; damping "
                f"{in_a_range(one.damping for one in solves)}. Rows are of an approximate inverse ({plan.method}), "
                f"which leaves {left} of the gradients of {COMPARED} samples, at most; hg.influence solves with the "
                f"exact matrix."
            )
        notes = [Note("influence", text)]
        if plan.projection is not None:
            text = f"Rows were projected to {width:,} dimensions: contributions are estimates that carry its noise."
            notes.append(Note("projection", text))
        return self._over.evidence(self._run, TRACIN if plan.method == "tracin" else INFLUENCE, notes, solves)


def _require_options(
    method: RowsMethod, damping: float | None, rates: float | Sequence[float] | None, projection: int | None
) -> None:
    if method not in get_args(RowsMethod):
        raise QueryError(f"method must be one of {', '.join(get_args(RowsMethod))}, got {method!r}.")
    if method == "tracin" and damping is not None:
        raise QueryError("TracIn has no damping. Leave damping= out.")
    if method != "tracin" and rates is not None:
        raise QueryError(f"rates= belong to method='tracin', got method={method!r}. Leave them out.")
    if projection is not None and projection < 1:
        raise QueryError(f"projection must be 1 or more dimensions, or None for whole rows, got {projection}.")
    require_solvable(damping, 1, TOLERANCE, "nystrom")


def _digest(at: Checkpoint) -> str:
    return content_digest(at.parameters | at.buffers, {})
