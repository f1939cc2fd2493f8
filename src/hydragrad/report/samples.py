"""Samples as cards: picture, labels, contribution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hydragrad.errors import PresentationError
from hydragrad.figures import data_uri, thumbnail
from hydragrad.randomness import preserved
from hydragrad.recording import Recording
from hydragrad.report.wording import counted, percent, signed
from hydragrad.scores import Scores

NEEDED = ("sample", "given_label", "contribution")
EXTREMES = 24
"""Cards of most harmful and of most helpful samples, at most."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One sample. Labels are names; what is not known is None."""

    sample: int
    contribution: str
    picture: str | None
    given: str | None
    suggested: str | None = None
    true: str | None = None
    flipped: bool | None = None


@dataclass(frozen=True, kw_only=True)
class CardGroup:
    """Cards under one heading."""

    heading: str
    notes: tuple[str, ...]
    cards: tuple[Card, ...]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How samples are shown.

    Attributes:
        picture: Picture of a training sample, uint8, (height, width) or (height, width, 3); None for none.
        classes: Name of each label; None to show numbers.
    """

    picture: Callable[[int], NDArray[np.uint8]] | None = None
    classes: Sequence[str] | None = None

    def uri(self, sample: int) -> str | None:
        """The sample's picture as a data URI."""
        return None if self.picture is None else data_uri(thumbnail(self.picture(sample)), "image/png")

    def label(self, label: Any) -> str | None:
        """The label's name; None if there is no label."""
        if label is None or pd.isna(label):
            return None
        if isinstance(label, str):
            return label
        if self.classes is None:
            return str(int(label))  # a column with gaps holds floats
        if not 0 <= int(label) < len(self.classes):
            raise PresentationError(f"Label {label} has no name: classes names {len(self.classes)} labels.")
        return str(self.classes[int(label)])


def require_suspects(suspects: pd.DataFrame) -> pd.DataFrame:
    """Return suspects with the sample as a column.

    Raises:
        PresentationError: A column is missing.
    """
    if "sample" not in suspects and suspects.index.name == "sample":
        suspects = suspects.reset_index()
    missing = [name for name in NEEDED if name not in suspects]
    if missing:
        raise PresentationError(
            f"The suspects need the columns {', '.join(NEEDED)}; {', '.join(missing)} is missing. Pass what "
            f"hg.suspects returned."
        )
    return suspects


def suspect_group(suspects: pd.DataFrame, pictures: Pictures, top: int) -> CardGroup:
    """The first `top` suspects as cards."""
    shown = suspects.head(top)
    notes = [f"{counted(len(suspects), 'sample')} ranked, most suspect first; the first {len(shown):,} are shown."]
    if len(shown) == len(suspects):
        notes = [f"{counted(len(suspects), 'sample')}, most suspect first."]
    if "flipped" in suspects and len(shown):
        flipped = shown["flipped"].astype(bool)
        notes.append(
            f"The truth is known here: of the {len(shown):,} shown, {int(flipped.sum()):,} "
            f"({percent(float(flipped.mean()))}) really carry a flipped label."
        )
    return CardGroup(
        heading="Suspects",
        notes=tuple(notes),
        cards=tuple(_suspect(row, pictures) for row in shown.to_dict("records")),
    )


def extreme_groups(
    run: Recording, scores: Scores, query: str | int, pictures: Pictures, top: int
) -> tuple[CardGroup, ...]:
    """The most harmful and the most helpful samples as cards."""
    count = min(top, EXTREMES, len(scores.sample_ids))
    value = dict(zip(scores.sample_ids.tolist(), scores.row(query).tolist(), strict=True))
    groups = []
    for heading, ids, sign, what in (
        ("Most harmful samples", scores.most_harmful(count, query), -1, "harmed most, the worst first"),
        ("Most helpful samples", scores.most_helpful(count, query), 1, "helped most, the best first"),
    ):
        kept = [i for i in ids if value[i] * sign > 0]
        labels = given_labels(run, kept)
        groups.append(
            CardGroup(
                heading=heading,
                notes=(f"The {counted(len(kept), 'sample')} that {what}.",),
                cards=tuple(
                    Card(
                        sample=i,
                        contribution=signed(value[i]),
                        picture=pictures.uri(i),
                        given=pictures.label(label),
                    )
                    for i, label in zip(kept, labels, strict=True)
                ),
            )
        )
    return tuple(group for group in groups if group.cards)


def given_labels(run: Recording, samples: Sequence[int]) -> Sequence[int | None]:
    """The labels that samples were trained on, if a batch is a pair that ends in an integer a sample."""
    if not samples:
        return []
    with preserved():
        batch = run.collate(samples)
    labels = batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None
    if not isinstance(labels, torch.Tensor) or labels.shape != (len(samples),) or labels.is_floating_point():
        return [None] * len(samples)
    given: list[int | None] = labels.tolist()
    return given


def _suspect(row: dict[Any, Any], pictures: Pictures) -> Card:
    flipped = row.get("flipped")
    return Card(
        sample=int(row["sample"]),
        contribution=signed(float(row["contribution"])),
        picture=pictures.uri(int(row["sample"])),
        given=pictures.label(row["given_label"]),
        suggested=pictures.label(row.get("suggested_label")),
        true=pictures.label(row.get("true_label")),
        flipped=None if flipped is None or pd.isna(flipped) else bool(flipped),
    )
