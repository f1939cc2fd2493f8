"""`clean`: what treating suspects really does to the model, measured on held-out data that ranked nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import pandas as pd
from torch.utils.data import Dataset

from hydragrad.cleaning.outcomes import (
    SURE,
    Outcome,
    frame_of,
    in_words,
    measured,
    net_gain,
    outcomes_of,
    surely_less_loss,
)
from hydragrad.cleaning.remedies import Remedy, down_weighted, relabelled, removed
from hydragrad.cleaning.signals import training_signals
from hydragrad.cleaning.suspects import WRONG_SHARE, estimated_share
from hydragrad.errors import QueryError
from hydragrad.execution import ExecutorOption, execution_of
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change, one_rounding
from hydragrad.replay.retraining import retrain
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import require_recorded

Kind = Literal["remove", "relabel", "down-weight"]
KINDS: tuple[Kind, ...] = ("remove", "relabel", "down-weight")
AS_GIVEN, AGAIN = "labels as given", "labels as given, again"
ALIKE = 0.85
"""Two shares of suspects that differ less are one."""


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Treatments of the suspects, really trained, and which one is worth it.

    Attributes:
        outcomes: The run as given; itself once more from initial weights changed by one rounding; the treatments.
        recommended: The best treatment, if its gain is beyond its uncertainty, or there is one and the loss is surely
            lower; else the run as given.
        sentence: What it means, in plain words.
    """

    outcomes: tuple[Outcome, ...]
    recommended: Outcome
    sentence: str

    def to_frame(self) -> pd.DataFrame:
        """One row a treatment."""
        return frame_of(self.outcomes)


@in_clean_surroundings
def clean(
    run: Recording,
    suspects: pd.DataFrame,
    choose_on: Dataset[object],
    *,
    treatments: Sequence[Kind | Remedy] = KINDS,
    share: float | None = None,
    executor: ExecutorOption = None,
    workers: int | None = None,
) -> Cleaning:
    """Really train with suspects removed, relabelled or down-weighted, and say which helps, if any.

    Every training starts as the run did and makes its steps on the same batches, so that nothing else differs: as many
    steps on fewer samples, of the size that they had. BatchNorm still sees the samples that are left out.

    Args:
        run: A completed run.
        suspects: As `suspects` ranks them.
        choose_on: Held-out data whose labels are right, and which did not rank the suspects.
        treatments: Which ones; or remedies of one's own.
        share: Share of the samples to treat. If None, as many as labels may be wrong: where suspects were ranked with
            held-out data and that lies between two shares which differ, both are tried.
        executor, workers: As `counterfactual` takes them.

    Returns:
        `outcomes`, one a training (its `remedy` with name, labels and weights; `accuracy`, `loss`, `gain` over the run
        as given with `gain_error`; `state`, the trained parameters and buffers), `recommended`, one of them, a
        `sentence`, and `to_frame()`. No treatment is recommended where the best gains nothing, or no more than two of
        its standard errors and than two trainings on the same labels differ by, unless its loss is lower by two
        standard errors.

    Raises:
        QueryError: A share that leaves nothing or is none, an unknown treatment, or a run that was not completed.
        LossError: Other labels, for data without labels.

    Cost: one training a treatment (two where two shares are tried) and one more, saved in RUN/retrained.
    """
    require_recorded(run, "clean")
    execution = execution_of(executor, workers)
    if not run.completed:
        raise QueryError(f"{run.path} was not completed. Train on with resume=True.")
    length = run.manifest.data["length"]
    listed = [one for kind in treatments for one in _remedies(kind, run, suspects, share)]
    remedies = list({remedy.name: remedy for remedy in listed if remedy.changed}.values())
    changes = [Change(noise=one_rounding(run)), *(remedy.change(length) for remedy in remedies)]
    retrained = dict(retrain(run, changes, execution=execution, keep=True)) if remedies else {}
    states = [run.final.parameters | run.final.buffers, *(retrained[number] for number in range(len(retrained)))]
    named = [Remedy(name=AS_GIVEN), Remedy(name=AGAIN), *remedies][: len(states)]
    outcomes = tuple(outcomes_of(named, states, [measured(run, state, choose_on) for state in states]))
    recommended = _recommended(outcomes)
    return Cleaning(outcomes=outcomes, recommended=recommended, sentence=_sentence(outcomes))


def _remedies(kind: Kind | Remedy, run: Recording, suspects: pd.DataFrame, share: float | None) -> list[Remedy]:
    """One treatment, of as many suspects as labels may be wrong: of the fewest and of the most, where these differ."""
    if isinstance(kind, Remedy):
        return [kind]
    if kind not in KINDS:
        raise QueryError(f"A treatment is one of {', '.join(KINDS)}, or a Remedy; got {kind!r}.")
    if kind != "remove" and "suggested_label" not in suspects:
        raise QueryError(
            f"To {kind}, suggested labels are needed, which come from plain cross-entropy of the model's one call. Use "
            f"treatments=['remove']."
        )
    low, high = _shares(suspects, share)
    if kind == "down-weight":
        return [down_weighted(_worst(suspects, high), training_signals(run))]
    signals = training_signals(run) if kind == "relabel" and "margin" in suspects else None
    several = [_worst(suspects, one) for one in ([low, high] if low < ALIKE * high else [low])]
    return [removed(worst) if kind == "remove" else relabelled(worst, signals) for worst in several]


def _shares(suspects: pd.DataFrame, share: float | None) -> tuple[float, float]:
    """The share of samples to treat, or the two between which it lies."""
    if share is not None:
        return share, share
    estimate = estimated_share(suspects)
    known = suspects.attrs.get(WRONG_SHARE)
    return (estimate, estimate) if known is None else (min(known["low"], estimate), estimate)


def _worst(suspects: pd.DataFrame, share: float) -> pd.DataFrame:
    if not 0 <= share < 1:
        raise QueryError(
            f"The share of samples to treat must be 0 or more and below 1, so that some are left to train with; it is "
            f"{share:.2f}. Say how many: share=0.1 (--remove 0.1)."
        )
    return suspects.head(int(share * len(suspects)))


@dataclass(frozen=True)
class _Verdict:
    """The best treatment, and how sure its gain is.

    Attributes:
        best: The treatment with the largest gain.
        repeats: How far two trainings on the same labels are apart, in gain.
        clear: It gains more than two standard errors, and than the repeats are apart.
        likely: It gains at all over both, and the loss falls by more than two standard errors.
    """

    best: Outcome
    repeats: float
    clear: bool
    likely: bool

    @classmethod
    def of(cls, again: Outcome, treated: Sequence[Outcome]) -> Self:
        best = max(treated, key=lambda one: one.gain)
        gain, repeats = net_gain(best, again), abs(again.gain)
        clear = gain > max(SURE * best.gain_error, repeats)
        return cls(best, repeats, clear, likely=gain > 0 and surely_less_loss(best, again))


def _recommended(outcomes: Sequence[Outcome]) -> Outcome:
    given, *others = outcomes
    if not others:
        return given
    verdict = _Verdict.of(others[0], others[1:])
    return verdict.best if verdict.clear or verdict.likely else given


def _sentence(outcomes: Sequence[Outcome]) -> str:
    if len(outcomes) == 1:
        return "No label stands out as wrong, so there is nothing to clean."
    verdict = _Verdict.of(outcomes[1], outcomes[2:])
    best = verdict.best
    treatment = best.remedy.name
    gain = in_words(best, best.gain, best.gain_error)
    repeats = f"two trainings on the same labels differ by {in_words(best, verdict.repeats)}"
    if verdict.clear:
        return f"With {treatment} the held-out result is better by {gain} ({repeats})."
    if verdict.likely:
        return (
            f"With {treatment} the held-out result is better by {gain}, which is within its uncertainty ({repeats}); "
            f"but its loss is surely lower, by {best.loss_gain:.3g} ± {best.loss_gain_error:.2g}. More held-out data "
            f"would tell."
        )
    worse = "makes it worse" if best.gain < -best.gain_error else "does not show to help"
    return (
        f"Cleaning {worse} here: the best treatment, {treatment}, changes the held-out result by {gain}, and "
        f"{repeats}. Keep the labels as given, or look at the suspects one by one."
    )
