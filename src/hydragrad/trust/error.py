"""How far contributions without curvature are from the exact ones, measured along the run, with a bound.

Legend: e = exact - approximate hypergradient; kappa the coefficients of the closed form; H the Hessian of the step's
batch loss. Both hypergradients advance eagerly, side by side, so e_T = sum_t kappa_t H exact_{t-1} gives the bounds

    |e_T| <= sum_t |kappa_t| |H exact_{t-1}| <= L M sum_t |kappa_t|.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from hydragrad.attribution.gradients import query_point
from hydragrad.derivatives import Batch, Layout
from hydragrad.derivatives.curvature.tangents import ExactTangents
from hydragrad.errors import QueryError, Unsupported
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.ranks import rank_correlation
from hydragrad.replay import Recording
from hydragrad.replay.averages import refuse_average
from hydragrad.replay.histories import has_closed_form, parts_of, run_histories, state_names, trained_layout
from hydragrad.replay.replay import Replay
from hydragrad.replay.statistics import moved_statistics
from hydragrad.replay.trajectory import PlaceOfStep
from hydragrad.runs import StepRecord
from hydragrad.scores import Evidence, Note, Query, checked_samples
from hydragrad.steps import Tangent, coefficients, tangent_all, tangent_transforms
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import require_recorded
from hydragrad.trust.counterfactual import training_loss

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ErrorAt:
    """What was measured after one step; norms are means over the samples trained on so far.

    Attributes:
        step: Steps made.
        error: L2 norm of exact - approximate hypergradient.
        exact: L2 norm of the exact hypergradient.
        relative_error: Mean over samples of |error| / |exact|.
        spearman: Of contributions to the query, approximate and exact, over samples.
        sign_disagreements: Share of samples whose contributions differ in sign.
        relative_contribution_error: L2 distance of the contributions over the L2 norm of the exact ones.
        measured_bound: sum |kappa| |H exact|; None where the run has no closed form, and so no kappa (Adam).
        bound: L M sum |kappa|, with L and M as sampled so far; None as above.
        largest_eigenvalue: L: largest size of an eigenvalue of a batch Hessian so far.
        largest_hypergradient: M: largest exact hypergradient of a sample so far.
    """

    step: int
    error: float
    exact: float
    relative_error: float
    spearman: float
    sign_disagreements: float
    relative_contribution_error: float
    measured_bound: float | None
    bound: float | None
    largest_eigenvalue: float
    largest_hypergradient: float


@dataclass(frozen=True, kw_only=True)
class PairAt:
    """Both hypergradients after one step, for other comparisons.

    Attributes:
        step: Steps made.
        parameters, buffers: The model there; to be read, not changed.
        trained: Which of the samples were trained on so far, bool (samples,).
        exact, approximate: Hypergradients, (samples, parameters) in the order of `weights`.
        exact_contributions: Of the samples to the query, float64 (samples,).
        gradient: Of the query, float64 (parameters,).
        weights: Where each parameter lies.
    """

    step: int
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    trained: Tensor
    exact: Tensor
    approximate: Tensor
    exact_contributions: Tensor
    gradient: Tensor
    weights: Layout


@dataclass(frozen=True, kw_only=True)
class ApproximationError:
    """The error of dropping the curvature, over training time.

    Attributes:
        samples: The training samples whose hypergradients were compared.
        query: What the contributions are to.
        points: One entry a point in time.
    """

    samples: tuple[int, ...]
    query: str
    points: tuple[ErrorAt, ...]

    @property
    def sentence(self) -> str:
        """What it means, in one plain sentence."""
        last = self.points[-1]
        return (
            f"Without curvature, contributions of {len(self.samples)} samples to {self.query!r} differ from the exact "
            f"ones by {last.relative_contribution_error:.2g} times their size, rank them with Spearman "
            f"{last.spearman:.2f}, and have the wrong sign for {last.sign_disagreements:.0%}.".replace("%", " %")
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a point in time."""
        return pd.DataFrame([asdict(point) for point in self.points]).set_index("step")

    def noted(self, evidence: Evidence) -> Evidence:
        """The evidence with this measurement among its notes."""
        return evidence.with_note(Note("approximation error", self.sentence))


@in_clean_surroundings
def approximation_error(
    run: Recording,
    *,
    samples: int | Sequence[int] = 16,
    query: Query | None = None,
    points: int = 20,
    eigenvalues: int = 5,
    seed: int = 0,
    observe: Callable[[PairAt], object] | None = None,
) -> ApproximationError:
    """Compare hypergradients without curvature with exact ones along the run, and both with their bounds.

    Both are derivatives of the step as it was made: under Adam and its like without the smoothing that contributions
    have by default (`smoothing=0`).

    Args:
        run: The recorded run.
        samples: Training samples to compare, or how many random ones.
        query: One scalar that the contributions are to; the mean loss of up to 500 training samples if None.
        points: Points in time, evenly spaced.
        eigenvalues: At how many of them the largest eigenvalue of the batch's Hessian is measured (Lanczos).
        seed: Of the random samples.
        observe: Called at every point with both hypergradients.

    Raises:
        QueryError: Samples that do not exist, or a query of several scalars.
        Unsupported: Buffers that update themselves and are not BatchNorm's.

    Cost: a step costs two to three gradient evaluations a sample, and memory four numbers a sample and parameter.

    Source: Chen et al. 2021, section 4.2 and Theorem 1, for mini-batches, momentum and any schedule.
    """
    require_recorded(run, "approximation_error")
    refuse_average(run, "approximation_error", "Call it with the run itself, and hg.verify(run.averaged(...), scores).")
    sample_ids = _sample_ids(run, samples, seed)
    scalar = query or training_loss(run, seed)
    if len(scalar.names()) != 1:
        raise QueryError(f"approximation_error takes one scalar, got {len(scalar.names())}. Call it once for each.")
    total = len(run.steps)
    times = sorted({round(total * (k + 1) / points) for k in range(points)} - {0})
    spectral = {times[round(k)] for k in np.linspace(0, len(times) - 1, min(eigenvalues, len(times)))}
    measured: list[ErrorAt] = []
    with run.replay() as replay, bar("exact and approximate", total) as progress:
        replay.trajectory.restore(run.initial)
        pair = _Pair(run, replay, sample_ids)
        for record in run.steps:
            pair.advance(record, spectrum=record.step + 1 in spectral)
            if record.step + 1 in times:
                at = pair.at(scalar)
                measured.append(pair.measured(at))
                if observe is not None:
                    observe(at)
            progress.advance()
    return ApproximationError(samples=tuple(sample_ids.tolist()), query=scalar.names()[0], points=tuple(measured))


class _Pair:
    """Exact and approximate hypergradients of some samples, advanced side by side."""

    def __init__(self, run: Recording, replay: Replay, samples: Tensor) -> None:
        self._run, self._replay, self._samples = run, replay, samples
        self._histories = run_histories(run)
        self._weights = trained_layout(run, self._histories)
        self._statistics = Layout(moved_statistics(run))
        self._tangents = ExactTangents(replay.trajectory.model, run.loss, self._weights, self._statistics)
        like = next(iter(replay.trajectory.parameters.values()))
        count = len(samples)
        self._r = like.new_zeros(count, self._statistics.size)
        zeros = like.new_zeros(count, self._weights.size)
        self._names = state_names(self._histories)
        self._states = [Tangent(zeros, (zeros,) * len(self._names)) for _ in range(2)]
        self._trained = torch.zeros(count, dtype=torch.bool)
        self._curved: list[Array] = []
        self._largest_eigenvalue = self._largest_hypergradient = 0.0

    def advance(self, record: StepRecord, *, spectrum: bool) -> None:
        run, trajectory = self._run, self._replay.trajectory
        batches = run.batches(record)
        if len(batches) > 1:
            raise Unsupported(
                f"Step {record.step} has several micro-batches, accumulated or of several processes, which this "
                f"comparison does not cover. Compare runs of one process without accumulation."
            )
        batch, divisor = batches[0], record.micro_batches[0].divisor
        trajectory.arrange(record)
        exact = self._rows(0)
        alpha = (torch.tensor(record.indices) == self._samples[:, None]).to(exact)
        mine = alpha.any(1).nonzero()[:, 0]
        state = (dict(trajectory.parameters), {name: value.clone() for name, value in trajectory.buffers.items()})
        tangents = self._tangents(
            *state,
            batch,
            divisor,
            torch.cat([exact, torch.zeros_like(exact[mine])]),
            torch.cat([self._r, torch.zeros_like(self._r[mine])]),
            torch.cat([alpha, alpha[mine]]),
        )
        own = torch.zeros_like(exact)
        own[mine] = tangents.g_dot[len(exact) :]
        whole = tangents.g_dot[: len(exact)]
        self._curved.append((whole - own).double().norm(dim=1).cpu().numpy())
        if spectrum:
            self._largest_eigenvalue = max(self._largest_eigenvalue, self._eigenvalue(state, batch, divisor))
        noted = PlaceOfStep(trajectory, self._weights, self._names)
        self._replay.advance(record, batches, hooks=noted)
        parts = parts_of(self._histories, self._weights, record.step)
        for number, g_dot in enumerate((whole, own)):
            g_dot = tangent_transforms(record.transforms, self._weights.spans, g_dot, noted.gradients)
            self._states[number] = tangent_all(parts, self._states[number], g_dot, noted.point, 0.0)
        self._r = tangents.r_dot[: len(exact)]
        self._trained[mine] = True
        self._largest_hypergradient = max(self._largest_hypergradient, float(self._rows(0).norm(dim=1).max()))

    def at(self, query: Query) -> PairAt:
        exact, approximate = self._rows(0), self._rows(1)
        w_bar, r_bar = self._gradient(query)
        trajectory = self._replay.trajectory
        return PairAt(
            step=len(self._curved),
            parameters=trajectory.parameters,
            buffers=trajectory.buffers,
            trained=self._trained if self._trained.any() else torch.ones_like(self._trained),
            exact=exact,
            approximate=approximate,
            exact_contributions=-(exact.double() @ w_bar + self._r.double() @ r_bar),
            gradient=w_bar,
            weights=self._weights,
        )

    def measured(self, at: PairAt) -> ErrorAt:
        kappa = self._kappa(at.step)
        curved = np.stack(self._curved)[:, at.trained.numpy()]
        return ErrorAt(
            step=at.step,
            exact=float(at.exact[at.trained].double().norm(dim=1).mean()),
            **distances(at, at.approximate),
            measured_bound=None if kappa is None else float((kappa @ curved).mean()),
            bound=None
            if kappa is None
            else float(kappa.sum() * self._largest_eigenvalue * self._largest_hypergradient),
            largest_eigenvalue=self._largest_eigenvalue,
            largest_hypergradient=self._largest_hypergradient,
        )

    def _kappa(self, steps: int) -> Array | None:
        """Largest |kappa| over the histories, for the run up to now, (steps,); None where there is no closed form."""
        if not has_closed_form(self._run, self._histories):
            return None
        cut = [history.until(steps) for history in self._histories]
        return np.asarray(np.max([np.abs(coefficients(history)) for history in cut], axis=0))

    def _gradient(self, query: Query) -> tuple[Tensor, Tensor]:
        trajectory = self._replay.trajectory
        final = query_point(self._run, self._weights, self._statistics)
        here = replace(final, parameters=dict(trajectory.parameters), buffers=dict(trajectory.buffers))
        with preserved():
            row = next(iter(query.rows(here)))
        return row.w_bar.double(), row.r_bar.double()

    def _eigenvalue(self, state: tuple[dict[str, Tensor], dict[str, Tensor]], batch: Batch, divisor: float) -> float:
        """Size of the batch Hessian's largest eigenvalue."""
        size = self._weights.size
        like = next(iter(state[0].values()))

        def product(vector: Array) -> Array:
            w = torch.from_numpy(np.ascontiguousarray(vector.reshape(1, size))).to(like)
            r, alpha = like.new_zeros(1, self._statistics.size), like.new_zeros(1, batch.size)
            image = self._tangents(*state, batch, divisor, w, r, alpha).g_dot[0]
            return np.asarray(image.double().cpu().numpy())

        if size < 3:
            return float(np.abs(np.linalg.eigvalsh(np.stack([product(row) for row in np.eye(size)]))).max())
        start = np.random.default_rng(0).standard_normal(size)
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        return float(abs(eigsh(operator, k=1, which="LM", v0=start, tol=1e-3, return_eigenvectors=False)[0]))

    def _rows(self, which: int) -> Tensor:
        return self._states[which].w_dot


def distances(at: PairAt, other: Tensor) -> dict[str, float]:
    """How far other hypergradients, (samples, parameters), are from the exact ones, over samples trained on so far."""
    exact, some = (rows[at.trained].double() for rows in (at.exact, other))
    errors = (exact - some).norm(dim=1)
    c = at.exact_contributions[at.trained], -(some @ at.gradient)
    return {
        "error": float(errors.mean()),
        "relative_error": float((errors / exact.norm(dim=1).clamp(min=1e-300)).mean()),
        "spearman": float(rank_correlation(c[1].cpu().numpy(), c[0].cpu().numpy())),
        "sign_disagreements": float((c[0].sign() != c[1].sign()).double().mean()),
        "relative_contribution_error": float((c[0] - c[1]).norm() / c[0].norm().clamp(min=1e-300)),
    }


def _sample_ids(run: Recording, samples: int | Sequence[int], seed: int) -> Tensor:
    length = run.manifest.data["length"]
    if isinstance(samples, int):
        if not 1 <= samples <= length:
            raise QueryError(f"samples must be 1 to {length:,}, or a list of samples, got {samples}.")
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(length, generator=generator)[:samples].sort().values
    return checked_samples(samples, length)
