"""What decides for Adam and its kin: how much of a step is a mere sign, and which smoothing predicts real changes.

Legend: v_hat second moment of a coordinate; u_k direction in which the weights really moved without the samples of
group k, of length 1; d_k that move, p_k the predicted one; A_jk = <u_j, d_k>, M_jk = <u_j, p_k>.

Where v_hat is tiny a step is nearly the sign of the gradient: its derivative is huge there and holds for tiny changes
only. Smoothing adds a share of the mean v_hat under the root, in the derivative alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hydragrad.attribution import attribute
from hydragrad.replay import Recording
from hydragrad.replay.checkpoint_spread import spread_steps
from hydragrad.replay.histories import parts_of, run_histories, state_names, trained_layout
from hydragrad.replay.trajectory import PlaceOfStep
from hydragrad.scores import Method, query
from hydragrad.steps import SMOOTHING, Part, StepPoint, smoothing_of

SMOOTHINGS = (0.0, SMOOTHING, 0.1)
FULL_STEP = 0.9
"""Share of the rate from which a step is called nearly a sign."""
CLEARLY = 0.8
"""Another smoothing than the default is recommended where its error is below this share of the default's."""
POINTS = 8


@dataclass(frozen=True, kw_only=True)
class SecondMoments:
    """Shares of the trained coordinates, means over some steps of a run.

    Attributes:
        sign_like: Their step is at least nine tenths of the rate: little but the sign of the gradient is in it.
        tiny: Their second moment is below 0.01 of the mean: where the default smoothing acts.
    """

    sign_like: float
    tiny: float


@dataclass(frozen=True, kw_only=True)
class SmoothingProbe:
    """How a smoothing predicts what leaving out some groups really does to the weights.

    Attributes:
        smoothing: Share of the mean second moment that is added under its root in the derivative.
        size: Predicted over real changes, along the real ones; 1 is right.
        error: |M - A| / |A|, in Frobenius norms; 0 is right.
    """

    smoothing: float
    size: float
    error: float


def second_moments(run: Recording, points: int = POINTS) -> SecondMoments | None:
    """Measure them after up to `points` checkpoints of a run; None where no step divides by a second moment."""
    histories = run_histories(run)
    if all(history.rule.second_moment is None for history in histories):
        return None
    layout, states = trained_layout(run, histories), state_names(histories)
    starts = spread_steps(run, points, at="starts")
    counts = []
    with run.replay() as replay:
        # The first step of all is a sign everywhere; later ones tell more.
        for start in [step for step in starts if step] or starts:
            record = run.steps[start]
            replay.trajectory.restore(run.checkpoint(start))
            noted = PlaceOfStep(replay.trajectory, layout, states)
            replay.advance(record, run.batches(record), hooks=noted)
            counts.append(_counts(parts_of(histories, layout, record.step), noted.point))
    sign_like, tiny, every = torch.tensor(counts, dtype=torch.float64).sum(0).tolist()
    return SecondMoments(sign_like=sign_like / max(1.0, every), tiny=tiny / max(1.0, every))


def _counts(parts: Sequence[Part], point: StepPoint | None) -> tuple[int, int, int]:
    """Coordinates with steps that are nearly signs, with tiny second moments, and all that have one."""
    sign_like, tiny, every = 0, 0, 0
    rho = smoothing_of(parts, point, SMOOTHING)
    for part in parts:
        here, rule = part.at(point), part.rule
        if rule.second_moment is None or here is None:
            continue
        moment = rule.second_moment(here, part.move)
        after, _ = rule.step(here.weights, here.states, here.gradient, part.move)
        full = FULL_STEP * part.move.options.lr
        sign_like += int(((after - here.weights).abs() >= full).sum())
        tiny += int((moment < rho).sum())
        every += moment.numel()
    return sign_like, tiny, every


class _Along:
    """<u, weights>, a scalar of the model; a class, so that it can be sent to workers."""

    def __init__(self, direction: Mapping[str, Tensor]) -> None:
        self._direction = direction

    def __call__(self, model: Any) -> Tensor:
        parameters = dict(model.named_parameters())
        parts = [(parameters[name] * u.to(parameters[name])).sum() for name, u in self._direction.items()]
        return torch.stack(parts).sum()


def smoothing_probes(
    run: Recording,
    groups: Sequence[Sequence[int]],
    moves: Sequence[Mapping[str, Tensor]],
    method: Method,
    smoothings: Sequence[float] = SMOOTHINGS,
) -> tuple[SmoothingProbe, ...]:
    """Compare smoothings by what they predict of real moves of the weights.

    Args:
        run: The recorded run.
        groups: Samples that were left out together.
        moves: How that moved each trained parameter, a group each.
        method: Curvature and damping of the predictions; replays are left out.
        smoothings: What to compare.

    Raises:
        LossError, Unsupported: As `attribute` does with this curvature.

    Cost: one attribution with as many queries as groups for each smoothing.
    """
    lengths = [sum(float(part.double().square().sum()) for part in move.values()) ** 0.5 for move in moves]
    if not all(lengths):
        return ()
    directions = [
        {name: part.double() / length for name, part in move.items()}
        for move, length in zip(moves, lengths, strict=True)
    ]
    actual = torch.tensor([[_dot(u, move) for move in moves] for u in directions], dtype=torch.float64)
    queries = [query(f"along move {number}", _Along(u)) for number, u in enumerate(directions)]
    probes = []
    for smoothing in smoothings:
        values = attribute(run, queries, **replace(method, smoothing=smoothing, replays=()).options).values
        predicted = torch.stack([values[:, list(group)].sum(1) for group in groups], dim=1)
        probes.append(
            SmoothingProbe(
                smoothing=smoothing,
                size=float(predicted.trace() / actual.trace()),
                error=float((predicted - actual).norm() / actual.norm()),
            )
        )
    return tuple(probes)


def _dot(u: Mapping[str, Tensor], move: Mapping[str, Tensor]) -> float:
    return sum(float((part * move[name].double()).sum()) for name, part in u.items())


def recommended(probes: Sequence[SmoothingProbe]) -> float:
    """The default smoothing, unless another one is clearly nearer to the real changes."""
    by_smoothing = {probe.smoothing: probe for probe in probes}
    if SMOOTHING not in by_smoothing:
        return SMOOTHING
    best = min(probes, key=lambda probe: probe.error)
    return best.smoothing if best.error < CLEARLY * by_smoothing[SMOOTHING].error else SMOOTHING


def in_words(moments: SecondMoments, probes: Sequence[SmoothingProbe]) -> str:
    """What was measured and what follows, a sentence."""
    shares = (
        f"{100 * moments.sign_like:.0f} % of the coordinates step by nearly the whole rate, and "
        f"{100 * moments.tiny:.0f} % have a second moment below 0.01 of the mean, where an exact derivative holds for "
        f"tiny changes only"
    )
    if not probes:
        return f"{shares}: keep smoothing={SMOOTHING:g}, the default."
    sizes = ", ".join(f"{probe.size:.3g} with smoothing {probe.smoothing:g}" for probe in probes)
    best = recommended(probes)
    kept = "keep the default" if best == SMOOTHING else "pass"
    return f"{shares}. Predicted changes of the weights are, of the real ones, {sizes}: {kept} smoothing={best:g}."
