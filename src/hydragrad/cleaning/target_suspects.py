"""Samples ranked by the evidence against their targets, where these are more than one class."""

import pandas as pd
from torch import Tensor

from hydragrad.cleaning.held_out import influence
from hydragrad.cleaning.signals_of_targets import TargetSignals
from hydragrad.cleaning.suspicion import Weights, combined
from hydragrad.errors import LossError
from hydragrad.replay import Recording, target_of
from hydragrad.scores import Query, Scores
from hydragrad.trained_elsewhere import Checkpoints

OF_TARGETS = Weights(contribution=0.5, influence=0.1)
"""As measured for targets that are more than one class; docs/results.md."""


def target_suspects(
    run: Recording | Checkpoints,
    scores: Scores,
    signals: TargetSignals,
    *,
    query: str | int | None = None,
    held_out: Query | None = None,
) -> pd.DataFrame:
    """Rank samples from the most to the least suspect, as `suspects` does.

    Args:
        run, scores, query, held_out: As for `suspects`.
        signals: What training shows about all samples.

    Raises:
        QueryError: `held_out` has several scalars.
    """
    ids, contributions = scores.sample_ids, scores.row(query)
    own = signals.of(ids)
    influences = None if held_out is None else influence(run, held_out)
    influences = None if influences is None else influences[ids]
    columns = {"sample": ids, **own.columns}
    columns["suspicion"] = combined(own.against, contributions, influences, weights=OF_TARGETS)
    columns |= {"evidence": own.against, "contribution": contributions}
    errors = scores.standard_errors_of(query)
    columns |= {} if errors is None else {"standard_error": errors}
    columns |= {} if influences is None else {"influence": influences}
    return _ranked(columns, signals.kind, signals.how)


def by_contribution(
    run: Recording | Checkpoints, scores: Scores, query: str | int | None, refusal: LossError
) -> pd.DataFrame:
    """Rank samples whose targets are more than one class by contribution alone.

    Args:
        refusal: Why the targets are not one class a sample.

    Raises:
        LossError: They are of no other kind, either.
    """
    try:
        target = target_of(run)
    except LossError as error:
        raise LossError(f"{refusal} {error}") from error
    contributions = scores.row(query)
    columns = {"sample": scores.sample_ids, "suspicion": -contributions, "contribution": contributions}
    errors = scores.standard_errors_of(query)
    columns |= {} if errors is None else {"standard_error": errors}
    return _ranked(columns, target.kind, target.how)


def _ranked(columns: dict[str, Tensor], kind: str, how: str) -> pd.DataFrame:
    frame = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    frame.attrs |= {"kind": kind, "how": how}
    return frame.sort_values("suspicion", kind="stable", ascending=False, ignore_index=True)
