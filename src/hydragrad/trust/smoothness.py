"""Whether derivatives of a run can predict finite changes: rounding noise, kinks, and what to do about them.

Along a direction of sample weights, the run is trained again at alpha, alpha + h v and alpha + 2 h v. On a smooth run
the two changes of the weights point the same way (cosine near 1); where rounding and kinks decide, the run at
alpha + h v is a random neighbour of both others and the two changes point apart (cosine -1/2 for independent noise).

Source: the three-point probe follows Ilyas and Engstrom 2025 (metasmoothness).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hydragrad.attribution.advice import Advice
from hydragrad.derivatives import normalises_batches
from hydragrad.errors import LossError, QueryError, Unsupported
from hydragrad.execution import ExecutorOption, PartOption, execution_of
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change, one_rounding
from hydragrad.replay.retraining import State, retrain
from hydragrad.scores import Curvature, Evidence, Method, Note, Query
from hydragrad.steps import SMOOTHING
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import require_recorded
from hydragrad.trust import second_moments as moments_of
from hydragrad.trust.counterfactual import measure, require_completed, training_loss
from hydragrad.trust.second_moments import SecondMoments, SmoothingProbe, smoothing_probes

SMOOTH = 0.2
"""Cosine at removal from which one exact sweep predicted removals of a tenth on every network that was measured; below
it did on some and not on others: digits, MNIST and Fashion-MNIST, `python -m studies trust` and `estimators`
(docs/results.md)."""

EXACT = Method.of("hessian")
STEADY = Method.of("ggn")
AVERAGED = Method.of("ggn", replays=4)
AVERAGED_COUPLED = Method.of("hessian", replays=4)
"""Where BatchNorm couples samples: what goes through its statistics is not in a Gauss-Newton matrix."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a step size showed, averaged over directions.

    Attributes:
        step: h; the samples' weights fall by h and by 2 h, so 0.5 ends at their removal.
        cosine: Between the weights' changes from 0 to h and from h to 2 h; 1 on a straight line.
        slope_agreement: 1 - |s1 - s2| / (|s1| + |s2|) of the query's slopes over the two halves; 0 at unequal signs.
    """

    step: float
    cosine: float
    slope_agreement: float


@dataclass(frozen=True, kw_only=True)
class Smoothness:
    """How smooth a run is.

    Attributes:
        rounding: Relative size of the initial change that was made, one rounding.
        rounding_growth: Size of the final change of the weights over that of the initial one.
        probes: One a step size, the smallest first.
        share: Share of the samples in a direction.
        directions: How many directions.
        recommended: The curvature that predicted such runs best.
        options: The same with everything that belongs to it: `hg.attribute(run, query, **smoothness.options)`.
        quick: What predicted such runs best at the price of one sweep, as options as well.
        sentence: What it means, in plain words.
        moments: Of optimizers that divide by the root of a second moment (Adam and most others): how much of their
            steps is a mere sign. None of others.
        smoothings: Of these: how real changes of the weights are predicted with one smoothing or another. Empty where
            they could not be compared.
        smoothing: Of these: the recommended one, in `options` and `quick` where it is not the default.
    """

    rounding: float
    rounding_growth: float
    probes: tuple[Probe, ...]
    share: float
    directions: int
    recommended: Curvature
    options: Mapping[str, Any]
    quick: Mapping[str, Any]
    sentence: str
    moments: SecondMoments | None = None
    smoothings: tuple[SmoothingProbe, ...] = ()
    smoothing: float | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row a step size."""
        return pd.DataFrame([asdict(probe) for probe in self.probes]).set_index("step")

    def noted(self, evidence: Evidence) -> Evidence:
        """The evidence with this verdict among its notes."""
        return evidence.with_note(Note("smoothness", self.sentence))


@in_clean_surroundings
def smoothness(
    run: Recording,
    *,
    query: Query | None = None,
    steps: Sequence[float] = (0.005, 0.05, 0.5),
    directions: int = 2,
    share: float = 0.1,
    seed: int = 0,
    executor: ExecutorOption = None,
    workers: int | None = None,
    part: PartOption = None,
) -> Smoothness:
    """Measure whether derivatives of this run predict what removing samples does, and which curvature suits.

    Args:
        run: A completed run.
        query: One scalar whose slopes are compared; the mean loss of up to 500 training samples if None.
        steps: Step sizes h, each with a training at h and one at 2 h; the largest decides, 0.5 is a removal.
        directions: Random groups of samples whose weights are lowered together.
        share: Of the samples, in a group.
        seed: Of the groups and of the rounding.
        executor, workers, part: As `counterfactual` takes them.

    Raises:
        QueryError: An interrupted run, or a query of several scalars.
        ValueError: Step sizes or a share outside (0, 1).
        Unfinished: `part`, and retrainings of other slices are missing.

    Cost: 1 + 2 * steps * directions trainings, saved in RUN/retrained; for optimizers that divide by the root of a
    second moment also three attributions with curvature. The verdict is saved in RUN/smoothness.json, and
    `attribute` notes where another method is used.
    """
    require_recorded(run, "smoothness")
    require_completed(run)
    if not 0 < share < 1 or not steps or min(steps) <= 0 or directions < 1:
        raise ValueError("smoothness needs steps above 0, a share between 0 and 1, and at least one direction.")
    scalar = query or training_loss(run, seed)
    if len(scalar.names()) != 1:
        raise QueryError(f"smoothness takes one scalar, got {len(scalar.names())}.")
    execution = execution_of(executor, workers, part)
    sizes = sorted(steps)
    epsilon = one_rounding(run)
    groups = _groups(run, directions, share, seed)
    changes = [Change(noise=epsilon, seed=seed)]
    changes += [
        Change(weights=dict.fromkeys(group, 1 - scale * h)) for group in groups for h in sizes for scale in (1, 2)
    ]
    states = dict(retrain(run, changes, execution=execution, keep=True))
    _, values = measure(run, states.items(), [scalar])
    start, final = _flat(run.initial.parameters), _flat(run.final.parameters)
    names = run.final.parameters
    moved = [_flat({name: states[number][name] for name in names}) - final for number in range(len(changes))]
    cosines, slopes = np.zeros((directions, len(sizes))), np.zeros((directions, len(sizes)))
    for number in range(directions):
        for column in range(len(sizes)):
            at = 1 + 2 * (number * len(sizes) + column)
            cosines[number, column] = _cosine(moved[at], moved[at + 1] - moved[at])
            first, both = values[0, at].item(), values[0, at + 1].item()
            slopes[number, column] = _agreement(first, both - first)
    probes = tuple(
        Probe(step=h, cosine=float(cosines[:, k].mean()), slope_agreement=float(slopes[:, k].mean()))
        for k, h in enumerate(sizes)
    )
    # The whole initial vector was changed, parameter by parameter, by epsilon of each one's norm.
    growth = float(moved[0].norm()) / max(1e-300, epsilon * float(start.norm()))
    advice = _advice(probes[-1].cosine, share, coupled=normalises_batches(run.model))
    removed = [2 * (number + 1) * len(sizes) for number in range(directions)]
    moves = [
        {name: states[number][name].cpu() - run.final.parameters[name].cpu() for name in names} for number in removed
    ]
    smoothing = _of_smoothing(run, groups, moves, advice.quick, scale=2 * sizes[-1])
    if smoothing is not None and smoothing.value != SMOOTHING:
        advice = replace(
            advice,
            best=replace(advice.best, smoothing=smoothing.value),
            quick=replace(advice.quick, smoothing=smoothing.value),
        )
    advice.save(run)
    sentence = _sentence(advice, probes[-1].cosine, growth)
    return Smoothness(
        rounding=epsilon,
        rounding_growth=growth,
        probes=probes,
        share=share,
        directions=directions,
        recommended=advice.best.curvature,
        options=advice.best.options,
        quick=advice.quick.options,
        sentence=sentence if smoothing is None else f"{sentence} {smoothing.sentence}",
        moments=None if smoothing is None else smoothing.moments,
        smoothings=() if smoothing is None else smoothing.probes,
        smoothing=None if smoothing is None else smoothing.value,
    )


class _OfSmoothing(NamedTuple):
    """What a run's second moments are like, and which smoothing suits."""

    moments: SecondMoments
    probes: tuple[SmoothingProbe, ...]
    value: float
    sentence: str


def _of_smoothing(
    run: Recording, groups: Sequence[Sequence[int]], moves: Sequence[State], method: Method, *, scale: float
) -> _OfSmoothing | None:
    """Compare smoothings by the real moves, of which those of weights lowered by `scale` are a part; None without any
    second moment."""
    moments = moments_of.second_moments(run)
    if moments is None:
        return None
    whole = [{name: part.double() / scale for name, part in move.items()} for move in moves]
    try:
        probes, reason = smoothing_probes(run, groups, whole, method), ""
    except (LossError, Unsupported) as error:
        probes, reason = (), f" Smoothings were not compared: {error}"
    sentence = moments_of.in_words(moments, probes) + reason
    return _OfSmoothing(moments, probes, moments_of.recommended(probes), sentence)


def _advice(cosine: float, share: float, *, coupled: bool) -> Advice:
    because = (
        f"leaving out {share:.0%} of the samples in two halves moves the weights with cosine {cosine:.2f}".replace(
            "%", " %"
        )
    )
    if cosine >= SMOOTH:
        return Advice(best=EXACT, quick=EXACT, because=because)
    return Advice(best=AVERAGED_COUPLED if coupled else AVERAGED, quick=STEADY, because=because)


def _sentence(advice: Advice, cosine: float, growth: float) -> str:
    rounding = f"one rounding of the initial weights grows {growth:.3g}-fold"
    if cosine >= SMOOTH:
        verdict = f"derivatives predict removals here; attribute with {advice.best.in_python}"
    else:
        verdict = (
            f"derivatives predicted removals on some such runs and not on others; attribute with "
            f"{advice.best.in_python}, or in one sweep with {advice.quick.in_python}, and check with hg.verify"
        )
    return f"{advice.because[0].upper()}{advice.because[1:]}, and {rounding}: {verdict}."


def _groups(run: Recording, count: int, share: float, seed: int) -> list[list[int]]:
    length = run.manifest.data["length"]
    size = min(length - 1, max(1, round(share * length)))
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(length, generator=generator)[:size].tolist() for _ in range(count)]


def _flat(state: State) -> Tensor:
    return torch.cat([state[name].double().cpu().reshape(-1) for name in sorted(state)])


def _cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()).clamp(min=1e-300))


def _agreement(x: float, y: float) -> float:
    return 0.0 if x * y <= 0 else 1 - abs(x - y) / (abs(x) + abs(y))
