"""Self-influence: what a sample's own loss would lose without the sample, of all samples in one call.

A sample that only itself could teach, as one with a wrong label, has a large one. By influence functions it is
g' (G + damping)^-1 g / N, with g the gradient of the sample; by TracIn, rate x |g|^2, summed over checkpoints. Exactly,
it takes one solve a sample. An approximate inverse is as quick as a gradient a sample, and is held to exact solves at
some samples.

Source: Koh and Liang, ICML 2017; Pruthi et al., NeurIPS 2020 (TracIn); Grosse et al. 2023 (EK-FAC).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from scipy.stats import spearmanr
from torch import Tensor

from hydragrad.attribution.averaged_over import AveragedOver, averaged_over, in_a_range
from hydragrad.attribution.conjugate_gradients import Solution
from hydragrad.attribution.gauss_newton_matrix import DAMPING_SHARE, TOLERANCE, DampedGaussNewton, Preconditioner
from hydragrad.attribution.gradients_at import GradientsAt
from hydragrad.attribution.influence import MATRIX, MOST_ITERATIONS, require_solvable
from hydragrad.attribution.tracin import rates_at
from hydragrad.derivatives import Layout
from hydragrad.errors import QueryError, Unsupported
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Recording, samples_in
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.scores import Compared, Evidence, Note, Scores, Solved, checked_samples
from hydragrad.scores.evidence import INFLUENCE, TRACIN
from hydragrad.scores.solved import not_converged
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints

SelfMethod = Literal["nystrom", "ekfac", "exact", "tracin"]
Measured = Literal["loss", "weights"]
NAME = "self-influence"
COMPARED = 16
"""Samples of every checkpoint at which an approximate inverse is held to conjugate gradients."""


@in_clean_surroundings
def self_influence(
    run: Recording | Checkpoints,
    *,
    method: SelfMethod = "nystrom",
    of: Measured = "loss",
    checkpoints: int = 10,
    damping: float | None = None,
    rates: float | Sequence[float] | None = None,
    samples: Sequence[int] | Tensor | None = None,
    iterations: int = MOST_ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Scores:
    """Self-influence of training samples: how much the loss of each depends on the sample itself; never negative.

    Wrong labels and rare samples rank first: `scores.most_helpful(k)`. `scores.relative_to(self_influence)` divides
    influence on queries by its square root.

    Args:
        run: The recorded run, or checkpoints of a model trained elsewhere.
        method: "nystrom" and "ekfac" take an approximate inverse of the Gauss-Newton matrix, at the cost of a gradient
            a sample, and the evidence says how near it is to conjugate gradients at 16 samples of every checkpoint;
            "exact" solves for every sample; "tracin" needs no curvature: rate x squared norm of the gradient.
        of: "loss": the change of the sample's own loss. "weights": the squared length of the change of the weights
            that removing the sample makes; not by TracIn.
        checkpoints: How many checkpoints to average over, at most, as for `influence`.
        damping: As for `influence`.
        rates: For TracIn, as `tracin` takes them.
        samples: Training samples to score; all if None.
        iterations, tolerance: Of conjugate gradients, as for `influence`.

    Returns:
        Scores with one row. Its query value is the mean loss of the samples.

    Raises:
        QueryError: An unknown method, options that belong to another one, or what `influence` and `tracin` refuse.
        NonFinite: A sample's loss has no finite derivative.
        Unsupported: `run` is neither.

    Cost: at every checkpoint, a gradient a sample. nystrom: one Gauss-Newton product of 32 vectors, ekfac: two passes
    over the samples; both: 16 solves. exact: a solve a sample, 32 side by side. No more than 256 MiB of gradients are
    held at a time.
    """
    _require_options(method, of, damping, rates, iterations)
    require_solvable(damping, iterations, tolerance, "nystrom")
    over = averaged_over(run, checkpoints, "self_influence")
    ids = checked_samples(samples, samples_in(run))
    factors = rates_at(run, over, rates) if method == "tracin" else [1 / len(over)] * len(over)
    total, value, solves, held = torch.zeros(len(ids), dtype=torch.float64), 0.0, list[Solved](), list[_Held]()
    with bar("self-influence", len(over) * len(ids), unit="gradients") as progress:
        for name, factor, read in zip(over.called, factors, over.read, strict=True):
            at = read()
            gradients = GradientsAt(run, over.layout, at)
            inverse = None if method == "tracin" else _Inverse(run, over.layout, at, method, of, damping, iterations)
            measure = _squared_norms if inverse is None else partial(inverse, tolerance=tolerance)
            parts = []
            for some, rows in gradients.blocks(ids):
                parts.append(measure(rows).double().cpu())
                progress.advance(len(some))
            total += factor * torch.cat(parts)
            value = gradients.mean_loss(ids)  # the last is the trained model
            if inverse is not None:
                held += inverse.held_to_exact(gradients, ids, tolerance)
                solves.append(inverse.solved(name, tolerance, chosen=damping is None))
    return Scores(
        values=total[None],
        sample_ids=ids,
        query_names=(NAME if of == "loss" else f"{NAME} (weights)",),
        query_values=torch.tensor([value], dtype=torch.float64),
        evidence=_evidence(run, over, method, of, solves, held, factors),
    )


class _Held(NamedTuple):
    """Self-influence of some samples by an approximate inverse, and exactly, (samples,)."""

    approximate: Tensor
    exact: Tensor

    @property
    def ratios(self) -> Tensor:
        return self.approximate / self.exact

    @property
    def rank_correlation(self) -> float:
        return float(spearmanr(self.approximate.numpy(), self.exact.numpy()).statistic)


class _Inverse:
    """Self-influence by the inverse of one checkpoint's matrix, approximate or exact."""

    def __init__(
        self,
        run: Recording | Checkpoints,
        layout: Layout,
        at: Checkpoint,
        method: SelfMethod,
        of: Measured,
        damping: float | None,
        iterations: int,
    ) -> None:
        self._method, self._of, self._iterations = method, of, iterations
        self._power = samples_in(run) ** (1 if of == "loss" else 2)
        kind: Preconditioner = "ekfac" if method == "ekfac" else "nystrom"
        with preserved():
            self.matrix = DampedGaussNewton(run, layout, at, damping, MATRIX, preconditioner=kind)
            if method != "exact" and self.matrix.approximation is None:
                raise Unsupported(
                    f"method={method!r} can't be had here: {self.matrix.why_not}. Take method='exact' or 'tracin'."
                )
        self._solutions: list[Solution] = []

    def __call__(self, rows: Tensor, tolerance: float) -> Tensor:
        """Of samples whose gradients are the rows, (rows,)."""
        return self._exactly(rows, tolerance) if self._method == "exact" else self._approximately(rows)

    def held_to_exact(self, gradients: GradientsAt, ids: Tensor, tolerance: float) -> list[_Held]:
        """Some samples both ways; none where all are exact."""
        if self._method == "exact":
            return []
        some = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))[:COMPARED]]
        pairs = [
            (self._approximately(rows).double().cpu(), self._exactly(rows, tolerance).double().cpu())
            for _, rows in gradients.blocks(some)
        ]
        approximate, exact = (torch.cat(part) for part in zip(*pairs, strict=True))
        there = exact > 0
        return [_Held(approximate[there], exact[there])] if there.any() else []

    def solved(self, name: str, tolerance: float, *, chosen: bool) -> Solved:
        """How far conjugate gradients came."""
        return Solved(
            at=name,
            damping=self.matrix.damping,
            share=DAMPING_SHARE if chosen else None,
            preconditioner=self.matrix.preconditioner,
            iterations=max(one.products for one in self._solutions),
            tolerance=tolerance,
            residual=max(one.residual for one in self._solutions),
        )

    def _approximately(self, rows: Tensor) -> Tensor:
        assert self.matrix.approximation is not None
        return self._measured(rows, self.matrix.approximation.inverse(rows, self.matrix.damping))

    def _exactly(self, rows: Tensor, tolerance: float) -> Tensor:
        with preserved():
            self._solutions.append(self.matrix.solve(rows, self._iterations, tolerance))
        return self._measured(rows, self._solutions[-1].x)

    def _measured(self, rows: Tensor, x: Tensor) -> Tensor:
        return (rows * x if self._of == "loss" else x.square()).sum(1) / self._power


def _squared_norms(rows: Tensor) -> Tensor:
    return rows.square().sum(1)


def _require_options(
    method: SelfMethod, of: Measured, damping: float | None, rates: float | Sequence[float] | None, iterations: int
) -> None:
    if method not in get_args(SelfMethod) or of not in get_args(Measured):
        raise QueryError(
            f"method must be one of {', '.join(get_args(SelfMethod))}, and of one of {', '.join(get_args(Measured))}, "
            f"got {method!r} and {of!r}."
        )
    if method == "tracin" and (damping is not None or of != "loss"):
        raise QueryError("TracIn has no damping, and measures of='loss' only. Leave damping= and of= out.")
    if method != "tracin" and rates is not None:
        raise QueryError(f"rates= belong to method='tracin', got method={method!r}. Leave them out.")
    if iterations < 1:
        raise QueryError(f"Self-influence takes iterations of 1 or more, got {iterations}.")


def _evidence(
    run: Recording | Checkpoints,
    over: AveragedOver,
    method: SelfMethod,
    of: Measured,
    solves: Sequence[Solved],
    held: Sequence[_Held],
    factors: Sequence[float],
) -> Evidence:
    what = "their own losses" if of == "loss" else "the squared length of the change of the weights"
    text = f"Self-influence: what leaving samples out does to {what}, {over.in_words}"
    if method == "tracin":
        text = f"{text.replace('averaged over', 'summed over')}, by TracIn; rates {in_a_range(factors)}."
    else:
        text += f", by {'conjugate gradients' if method == 'exact' else method}."
    if held:
        ratios = torch.cat([one.ratios for one in held])
        text += (
            f" At {len(ratios)} samples it is {in_a_range(ratios.tolist())} times what conjugate gradients give, and "
            f"ranks them with a correlation of {in_a_range(one.rank_correlation for one in held)}."
        )
    unfinished = not_converged(solves)
    notes = [Note("self-influence", text), *([] if unfinished is None else [unfinished])]
    evidence = over.evidence(run, TRACIN if method == "tracin" else INFLUENCE, notes, solves)
    if not held:
        return evidence
    gap = float((torch.cat([one.ratios for one in held]) - 1).abs().max())
    compared = Compared(
        f"self-influence by {method} with conjugate gradients", sum(len(one.exact) for one in held), gap
    )
    return replace(evidence, compared=(compared,))
