"""Suspects: training samples ranked by the evidence against their labels, with the labels suggested instead."""

from contextlib import suppress
from dataclasses import asdict
from typing import Literal

import pandas as pd
from torch import Tensor

from hydragrad.cleaning.held_out import influence
from hydragrad.cleaning.label_noise import load_labels
from hydragrad.cleaning.signals import Signals, training_signals
from hydragrad.cleaning.signals_of_targets import TargetSignals, target_signals
from hydragrad.cleaning.suspicion import suspicion
from hydragrad.cleaning.target_evidence import RESIDUALS
from hydragrad.cleaning.target_suspects import by_contribution, target_suspects
from hydragrad.cleaning.wrong_share import held_out_errors, wrong_share
from hydragrad.errors import LossError
from hydragrad.replay import Recording, label_of, labels_of, warn_of_other_labels
from hydragrad.scores import Query, Scores
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints, require_scores_about

WRONG_SHARE = "wrong_share"
"""Entry of a frame's attrs: between which shares of labels are wrong."""
HOW_CLASSES = (
    "Found from how the loss behaves: another class in place of the label turns its gradient from one to the other."
)


@in_clean_surroundings
def suspects(
    run: Recording | Checkpoints,
    scores: Scores,
    *,
    query: str | int | None = None,
    held_out: Query | None = None,
    signals: Signals | TargetSignals | Literal["auto"] | None = "auto",
) -> pd.DataFrame:
    """Rank training samples from the most to the least suspect.

    Which tensor of a batch is the label, and of which kind, is found from how the loss behaves. `frame.attrs["kind"]`
    says which kind was found, and `frame.attrs["how"]` how:

    - "classes": one class a sample, integer labels or one-hot rows.
    - "values": regression; the loss is lowest where the model's output is the target.
    - "multi-label": 0 or 1 for every class. A sample is one row, with its most suspect class: a person opens it once.
    - "positions": a class at every position of a sample (pixels, tokens). A sample is one row; what the loss leaves out
      (padding, masks) does not count.

    Args:
        run: The recorded run, or checkpoints of a model trained elsewhere: their losses and margins are then the
            evidence over training, and nothing is saved.
        scores: Contributions to a loss on held-out data whose labels are right.
        query: Which query, if the scores answer several.
        held_out: The query of the scores, one mean loss: influence functions averaged over the run are computed for it,
            saved with the run, and used as well. With `signals` only.
        signals: What training shows about the labels. "auto" measures it where the kind is known (saved with the run),
            and does without for classes whose loss is no cross-entropy; None ranks by contribution alone.

    Returns:
        One row a scored sample, the most suspect first: `sample`, `given_label`, `suggested_label` (the likeliest over
        training; without signals the one under which it would help most, of scores with labels=True),
        `suspicion` (higher is more suspect; only the order has a meaning), `contribution` (negative harms; unit of
        the query), `standard_error` (of scores over independent runs), with signals `loss` (of the trained model,
        nats), `margin` (of the given label's logit, mean over training), `influence` (with `held_out`; sign and unit of
        a contribution) and, where folds were trained, `confidence` (probability of the given label by models that never
        saw the sample), and, where noise was added, `true_label` and `flipped`.

        Of the other kinds: `sample`, `given_target`, `suggested_target` (of values the model's prediction, mean over
        training: a squared error has no value under which the sample would help most, as it grows with the value
        without end; else the likelier answer over training), `evidence` against the target over training, `loss`,
        `suspicion`, `contribution`, `standard_error` and `influence` as above. Evidence is, of values, the `residual`
        (given minus suggested) in units of its median absolute deviation over all samples, next to the `spread` of the
        predictions over training (their standard deviation); of several columns, the root mean square, and `column` is
        the one shown. Of multi-label it is the probability of the other answer minus that of the given one, for the
        `class` where it is largest; `disagree` counts the classes where it is positive. Of positions it is the largest
        probability of another class minus that of the given one, mean over the quarter of the positions where it is
        largest; `disagree` is the share of positions where it is positive, and `position` where it is `strongest` (of
        images counted row by row). With signals=None only
        `sample`, `suspicion` and `contribution`.

    Raises:
        LossError: No tensor of the batches is a label of a kind that is known, or several are.
        NonFinite: The model returned NaN or infinity for some samples.
        QueryError: `held_out` has several scalars; or scores of other checkpoints, or of candidates.

    Cost: the first time, with "auto" up to twenty evaluations of the training set, and with `held_out` eighteen
    Gauss-Newton products of up to 5,000 samples at each of five checkpoints.
    """
    require_scores_about(run, scores)
    ids = scores.sample_ids
    contributions = scores.row(query)
    if signals == "auto":
        signals = _measured(run)
    if isinstance(signals, TargetSignals):
        return target_suspects(run, scores, signals, query=query, held_out=held_out)
    own = None if signals is None else signals.of(ids)
    try:
        labels = labels_of(run, ids.tolist()) if own is None else own.given
    except LossError as refusal:
        return by_contribution(run, scores, query, refusal)
    if own is not None:
        warn_of_other_labels(labels, ids.tolist(), run.train_set)
    frame = pd.DataFrame({"sample": ids.numpy(), "given_label": labels.numpy()})
    suggested = _suggested(scores, query, own)
    if suggested is not None:
        frame["suggested_label"] = suggested.numpy()
    influences = None if held_out is None or own is None else influence(run, held_out)
    influences = None if influences is None else influences[ids]
    frame["suspicion"] = (-contributions if own is None else suspicion(own, contributions, influences)).numpy()
    frame["contribution"] = contributions.numpy()
    errors = scores.standard_errors_of(query)
    if errors is not None:
        frame["standard_error"] = errors.numpy()
    for name, column in _columns(own, influences).items():
        frame[name] = column.numpy()
    frame.attrs |= {} if own is None else _share(run, own, held_out)
    known = load_labels(run.path) if isinstance(run, Recording) else None
    if known is not None:
        frame["true_label"] = known.true[ids].numpy()
        frame["flipped"] = known.flipped[ids].numpy()
    frame.attrs |= {"kind": "classes", "how": HOW_CLASSES}
    ranked = frame.sort_values("suspicion", kind="stable", ascending=False, ignore_index=True)
    ranked.attrs |= frame.attrs
    return ranked


def suspected(ranked: pd.DataFrame) -> "pd.Series[bool]":
    """Say of each suspect whether its label is taken to be wrong: another one is suggested.

    From contributions alone (no `margin` in the frame) it must harm as well; without suggested labels it is enough that
    it harms. Of several labels and positions the evidence must be positive, of values the residual is three median
    absolute deviations or more. Right labels that the network does not learn are among them:
    `attrs["wrong_share"]` of suspects that were ranked with `held_out` allows for these.
    """
    if "evidence" in ranked:
        return ranked["evidence"] > (RESIDUALS if "residual" in ranked else 0)
    harm = ranked["contribution"] < 0
    if "suggested_label" not in ranked:
        return harm
    other = ranked["suggested_label"] != ranked["given_label"]
    return other if "margin" in ranked else other & harm


def estimated_share(ranked: pd.DataFrame) -> float:
    """Estimate the share of wrong labels: that of the suspects whose label is taken to be wrong."""
    return float(suspected(ranked).mean())


def _share(run: Recording | Checkpoints, signals: Signals, held_out: Query | None) -> dict[str, dict[str, float]]:
    """The estimated share of wrong labels with its interval, where there are held-out data with labels."""
    if held_out is None or held_out.dataset is None:
        return {}
    errors = held_out_errors(run, held_out.dataset)
    return {} if errors is None else {WRONG_SHARE: asdict(wrong_share(signals, errors))}


def _measured(run: Recording | Checkpoints) -> Signals | TargetSignals | None:
    """What training shows about classes, or else about targets of another kind; None where there are neither."""
    with suppress(LossError):
        return training_signals(run)
    try:
        if not label_of(run).one_hot:
            return None  # classes whose loss is no cross-entropy
        labels_of(run)  # refuses several ones in a row, which the batches that were looked at may lack
    except LossError:
        with suppress(LossError):
            return target_signals(run)
    return None


def _suggested(scores: Scores, query: str | int | None, signals: Signals | None) -> Tensor | None:
    if signals is not None:
        return signals.over_training.argmax(1)
    return None if scores.label_contributions is None else scores.suggested_labels(query)


def _columns(signals: Signals | None, influences: Tensor | None) -> dict[str, Tensor]:
    if signals is None:
        return {}
    labels = signals.given[:, None]
    columns = {"loss": -signals.at_end.gather(1, labels)[:, 0].log(), "margin": signals.margin}
    if influences is not None:
        columns["influence"] = influences
    if signals.out_of_fold is not None:
        columns["confidence"] = signals.out_of_fold.gather(1, labels)[:, 0]
    return columns
