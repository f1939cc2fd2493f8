"""What is written of each suspect, whatever the tool."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hydragrad.errors import PresentationError
from hydragrad.labelling.label_names import LabelNames
from hydragrad.randomness import preserved, reseed_everything
from hydragrad.replay import Trained, labels_of, samples_in
from hydragrad.reports.rendering import Render, Rendered, rendered

NEEDED = ("sample", "given_label", "suspicion")
MEASURED = ("suspicion", "contribution", "standard_error", "loss", "margin", "influence", "confidence")
"""Columns of numbers that are written where the suspects hold them. The truth is not, where it is known."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One suspect.

    Attributes:
        sample: Its number.
        given, suggested: Labels; None where no label is suggested.
        rank_score: 1 for the most suspect of all that were ranked, falling to 0.
        measured: Numbers by name; NaN is left out.
    """

    sample: int
    given: int
    suggested: int | None
    rank_score: float
    measured: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Suspects of a run, the most suspect first, and what a tool shows of them.

    Attributes:
        run: The run, or the checkpoints.
        suspects: Those that are written.
        labels: The labels that exist.
        render: The user's own way to show an item.
    """

    run: Trained
    suspects: tuple[Suspect, ...]
    labels: LabelNames
    render: Render | None

    def name(self, label: int | None) -> str | None:
        """What a label is called; None for none."""
        return None if label is None else self.labels.names[label]

    def views(self) -> Iterator[Rendered]:
        """Every suspect as a picture, a text, or names and values; the same every time where a data set augments."""
        for suspect in self.suspects:
            with preserved():
                reseed_everything(0)
                yield rendered(self.run.train_set[suspect.sample], self.render)


def exported(
    run: Trained, suspects: pd.DataFrame, *, classes: Sequence[str] | None, render: Render | None, most: int
) -> Exported:
    """The first `most` of suspects, held to the run.

    Raises:
        PresentationError: A missing column, no suspects, a sample twice or not of the run, labels without names or
            other than those that the run was trained on.
    """
    missing = [name for name in NEEDED if name not in suspects]
    if missing or not len(suspects) or most < 1:
        raise PresentationError(
            f"Suspects need the columns {', '.join(NEEDED)} and a row, and most must be at least 1; got "
            f"{len(suspects):,} rows, {', '.join(missing) or 'no column'} missing, and most={most}. Pass what "
            f"hg.suspects returned."
        )
    recorded = labels_of(run).tolist()
    names = LabelNames(set(recorded) | _labels_in(suspects), classes)
    _require_of_run(suspects, recorded, samples_in(run))
    _require_names(set(recorded) | _labels_in(suspects), names)
    scores = np.linspace(1, 0, len(suspects))
    rows = suspects.head(most).to_dict("records")
    return Exported(
        run=run,
        suspects=tuple(_suspect(row, score) for row, score in zip(rows, scores.tolist(), strict=False)),
        labels=names,
        render=render,
    )


def _labels_in(suspects: pd.DataFrame) -> set[int]:
    return set(suspects["suggested_label"].dropna().astype(int)) if "suggested_label" in suspects else set()


def _require_of_run(suspects: pd.DataFrame, recorded: Sequence[int], length: int) -> None:
    samples = suspects["sample"].tolist()
    outside = [sample for sample in samples if not 0 <= sample < length]
    if outside or len(set(samples)) < len(samples):
        raise PresentationError(
            f"Every suspect must be one of the run's samples 0 to {length - 1:,}, listed once; got "
            f"{f'sample {outside[0]}' if outside else 'a sample twice'}. Pass what hg.suspects returned for this run."
        )
    for sample, label in zip(samples, suspects["given_label"].tolist(), strict=True):
        if label != recorded[sample]:
            raise PresentationError(
                f"The suspects say that sample {sample} carries label {label}; in this run it is {recorded[sample]}. "
                f"Pass what hg.suspects returned for this run."
            )


def _require_names(labels: set[int], names: LabelNames) -> None:
    wrong = sorted(labels - set(names.names))
    if wrong:
        raise PresentationError(f"Label {wrong[-1]} has no name: classes names {len(names.names)} labels.")


def _suspect(row: dict[Any, Any], score: float) -> Suspect:
    suggested = row.get("suggested_label")
    return Suspect(
        sample=int(row["sample"]),
        given=int(row["given_label"]),
        suggested=None if suggested is None or pd.isna(suggested) else int(suggested),
        rank_score=score,
        measured={name: float(row[name]) for name in MEASURED if name in row and np.isfinite(row[name])},
    )
