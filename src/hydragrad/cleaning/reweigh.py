"""`reweigh`: loss weights from contributions, by steps that are really trained and measured on other held-out data.

A contribution is by how much a sample's weight lowers the held-out loss, at the weights that the run has. So weights go
up where it helps and down where it harms, by a step of which several sizes are trained; the best on held-out data that
gave no contribution is taken, and contributions are taken anew there. It ends where no size is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.attribution import attribute
from hydragrad.cleaning.outcomes import (
    SURE,
    Measured,
    Outcome,
    frame_of,
    in_words,
    measured,
    net_gain,
    outcomes_of,
    surely_less_loss,
)
from hydragrad.cleaning.remedies import Remedy
from hydragrad.errors import QueryError
from hydragrad.execution import Execution, ExecutorOption, execution_of
from hydragrad.progress import bar, quiet
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change, ChangedRun, one_rounding
from hydragrad.replay.retraining import State, retrain
from hydragrad.scores import Curvature, Query
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import require_recorded

STEPS = (0.3, 1.0)
"""Sizes of a step: by how much the weight of a typical sample changes."""

MOST = 3.0
"""Largest weight, and largest step of one sample in sizes of a typical one's."""

EQUAL, AGAIN = "equal weights", "equal weights, again"

MEMORY = 1 << 28
"""Bytes for the checkpoints of a reweighted run."""


@dataclass(frozen=True, kw_only=True)
class Reweighting:
    """Loss weights, and what training with them did.

    Attributes:
        outcomes: The run as given; itself once more from initial weights changed by one rounding; the best of every
            round.
        weights: Loss weight of every sample as recommended, float64 (samples,), mean 1.
        recommended: The outcome with these weights; the run as given where none is better.
        sentence: What it means, in plain words.
    """

    outcomes: tuple[Outcome, ...]
    weights: Tensor
    recommended: Outcome
    sentence: str

    def to_frame(self) -> pd.DataFrame:
        """One row a training."""
        return frame_of(self.outcomes)


@in_clean_surroundings
def reweigh(
    run: Recording,
    query: Query,
    choose_on: Dataset[object],
    *,
    curvature: Curvature = "none",
    smoothing: float | None = None,
    steps: Sequence[float] = STEPS,
    rounds: int = 2,
    executor: ExecutorOption = None,
    workers: int | None = None,
) -> Reweighting:
    """Choose loss weights that lower a held-out loss, and really train with them.

    Needs no labels: it is for any loss per sample. Where labels are wrong, `clean` knows more about them.

    Args:
        run: A completed run.
        query: One scalar to lower, as `mean_loss` of held-out data.
        choose_on: Other held-out data, which decide how large a step is, and when it ends.
        curvature, smoothing: Of the contributions, as `attribute` takes them.
        steps: Sizes of a step that are tried.
        rounds: How often contributions are taken, at most.
        executor, workers: As `counterfactual` takes them.

    Returns:
        The weights, and what they did on `choose_on`, which chose among few: a little optimistic.

    Raises:
        QueryError: A run that was not completed, a query of several scalars, or sizes that are not positive.

    Cost: a round takes one attribution and one training a size, from the second on one training more; those of the
    sizes are saved in RUN/retrained.

    Source: the gradient of a held-out loss by sample weights is that of Ren et al., ICML 2018 ("learning to reweight"),
    here of the whole run.
    """
    require_recorded(run, "reweigh")
    execution = execution_of(executor, workers)
    if not run.completed:
        raise QueryError(f"{run.path} was not completed. Train on with resume=True.")
    if len(query.names()) != 1:
        raise QueryError(f"reweigh lowers one scalar, got {len(query.names())}. Use hg.mean_loss(held_out).")
    if not steps or min(steps) <= 0 or rounds < 1:
        raise QueryError(f"reweigh needs sizes above 0 and at least one round, got {list(steps)} and {rounds}.")
    length = run.manifest.data["length"]
    state = run.final.parameters | run.final.buffers
    equal = torch.ones(length, dtype=torch.float64)
    given = _Place(equal, Remedy(name=EQUAL), state, measured(run, state, choose_on), run)
    (again,) = _trained(run, [Change(noise=one_rounding(run))], execution)
    search = _Search(run, query, choose_on, {"curvature": curvature, "smoothing": smoothing}, tuple(steps), execution)
    places = [given]
    with bar("reweighting", rounds, unit="rounds") as progress:
        for number in range(1, rounds + 1):
            following = search.step_from(places[-1], number)
            progress.advance()
            if following is None:
                break
            places.append(following)
    remedies = [given.remedy, Remedy(name=AGAIN), *(place.remedy for place in places[1:])]
    states = [given.state, again, *(place.state for place in places[1:])]
    found = [given.measured, measured(run, again, choose_on), *(place.measured for place in places[1:])]
    outcomes = tuple(outcomes_of(remedies, states, found))
    best = places[-1] if len(places) > 1 and _better(outcomes[-1], outcomes[1]) else given
    recommended = outcomes[0] if best is given else outcomes[-1]
    weights = best.weights / best.weights.mean()
    return Reweighting(
        outcomes=outcomes, weights=weights, recommended=recommended, sentence=_sentence(outcomes, recommended)
    )


@dataclass(frozen=True)
class _Place:
    """Weights, the run trained with them, and what it does on the data that decide."""

    weights: Tensor
    remedy: Remedy
    state: State
    measured: Measured
    run: Recording


@dataclass(frozen=True)
class _Search:
    """Takes steps from one place to a better one."""

    run: Recording
    query: Query
    choose_on: Dataset[object]
    options: Mapping[str, Any]
    steps: tuple[float, ...]
    execution: Execution

    def step_from(self, place: _Place, number: int) -> _Place | None:
        """The best step along the contributions there; None where none lowers the loss without harm to the accuracy."""
        with quiet():
            contributions = attribute(place.run, self.query, **self.options).row()
        tried = [_stepped(place.weights, contributions, size) for size in self.steps]
        names = [f"weights of round {number}, step {size:g}" for size in self.steps]
        remedies = [_remedy(weights, name) for weights, name in zip(tried, names, strict=True)]
        changes = [remedy.change(len(contributions)) for remedy in remedies]
        states = _trained(self.run, changes, self.execution)
        found = [measured(self.run, state, self.choose_on) for state in states]
        _, *outcomes = outcomes_of([place.remedy, *remedies], [place.state, *states], [place.measured, *found])
        best = max(range(len(outcomes)), key=lambda which: outcomes[which].loss_gain)
        if outcomes[best].loss_gain <= 0 or outcomes[best].gain < 0:
            return None
        reweighted = ChangedRun(self.run, changes[best], memory=MEMORY)
        return _Place(tried[best], remedies[best], states[best], found[best], reweighted)


def _trained(run: Recording, changes: Sequence[Change], execution: Execution) -> list[State]:
    states = dict(retrain(run, changes, execution=execution, keep=True))
    return [states[number] for number in range(len(changes))]


def _stepped(weights: Tensor, contributions: Tensor, size: float) -> Tensor:
    typical = contributions.square().mean().sqrt().clamp(min=1e-300)
    return (weights + size * (contributions / typical).clamp(-MOST, MOST)).clamp(0.0, MOST)


def _remedy(weights: Tensor, name: str) -> Remedy:
    changed = (weights != 1).nonzero().flatten().tolist()
    return Remedy(name=name, weights={sample: float(weights[sample]) for sample in changed})


def _better(best: Outcome, again: Outcome) -> bool:
    gain = net_gain(best, again)
    return gain > 0 and (surely_less_loss(best, again) or gain > SURE * best.gain_error)


def _sentence(outcomes: Sequence[Outcome], recommended: Outcome) -> str:
    given, again, *_ = outcomes
    repeats = f"two trainings with equal weights differ by {in_words(again, abs(again.gain))}"
    if recommended is given:
        return f"No weights that were tried are surely better than equal ones here ({repeats}). Keep them equal."
    gain = in_words(recommended, recommended.gain, recommended.gain_error)
    loss = f"{recommended.loss_gain:.3g} ± {recommended.loss_gain_error:.2g}"
    lower = "" if recommended.accuracy is None else f", and its loss lower by {loss}"
    return f"With the {recommended.remedy.name} the held-out result is better by {gain}{lower} ({repeats})."
