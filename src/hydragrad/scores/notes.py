"""Notes: what a reader of scores must know, each of a kind by which programs find it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

NoteKind = Literal[
    "replays",
    "removal",
    "curvature dropped",
    "statistics constant",
    "average",
    "projection",
    "ensemble",
    "influence",
    "convergence",
    "self-influence",
    "relative",
    "same samples",
    "candidates",
    "advice",
    "interrupted",
    "autocast",
    "smoothness",
    "approximation error",
    "other",
]


@dataclass(frozen=True)
class Note:
    """One sentence about scores; printed, it is its text.

    Attributes:
        kind: What it is about. "other" for a text whose kind was not saved.
        text: One or several sentences.
    """

    kind: NoteKind
    text: str

    def __str__(self) -> str:
        return self.text

    @classmethod
    def read(cls, saved: str | dict[str, Any]) -> Self:
        """A note from a file: the two fields, or the text alone, as files held it before notes had a kind."""
        if isinstance(saved, str):
            return cls("other", saved)
        return cls(saved["kind"] if saved["kind"] in get_args(NoteKind) else "other", saved["text"])


CURVATURE_DROPPED = Note(
    "curvature dropped",
    "The curvature of the loss was dropped: read the ranking, not the scale, until a check has measured it.",
)
RENORMALISED = Note(
    "removal",
    "Leaving a sample out means here that the mean of its batch is taken over the rest.",
)
STATISTICS_CONSTANT = Note("statistics constant", "Running statistics of BatchNorm were treated as constants.")

SURE = 0.01
"""Relative error of the shares of an average that is not worth a word."""

UNSEALED = Note(
    "other",
    "The store was written by an earlier version, without checksums of its model and samples: that these are what was "
    "written can't be verified.",
)


def interrupted(steps: int) -> Note:
    """That a run has not ended, and after how many steps it was taken."""
    return Note("interrupted", f"The run was interrupted; this is its state after step {steps:,}.")


def about_average(name: str, error: float) -> Note:
    """That scores are about an average of the weights; and how surely its shares are known, where that is not sure."""
    unsure = f" The shares of the steps in it are known to {100 * error:.1g} % only." if error > SURE else ""
    return Note("average", f"About the average {name!r} of the weights, not about the trained weights.{unsure}")


def of_candidates(count: int) -> Note:
    """That scores are about samples that were not trained on."""
    return Note(
        "candidates",
        f"The scores are about {count:,} candidates that were not trained on: the contribution of each as if it had "
        f"been, with weight 1; positive means that adding it would help.",
    )


def of_exploded(exploded: Mapping[int, int], queries: int, times: float) -> Note:
    """That contributions of some replays are not in a mean over replays.

    Args:
        exploded: Number of a replay → to how many queries its contributions exploded.
        queries: How many queries there are.
        times: What is called exploded, in norms of the median replay.
    """
    which = ", ".join(map(str, sorted(exploded)))
    one, most = len(exploded) == 1, max(exploded.values())
    return Note(
        "replays",
        f"{'Replay' if one else 'Replays'} {which} exploded: {'its' if one else 'their'} contributions to "
        f"{'' if one else 'up to '}{most:,} of {queries:,} queries have more than {times:g} times the norm of the "
        f"median replay's, and are not in the mean. curvature='ggn' is more stable.",
    )


def under_autocast(kind: str) -> Note:
    """That a run trained in half precision, and its derivatives are not."""
    return Note(
        "autocast",
        f"The run trained under autocast to {kind}; the derivatives are those of the same losses without autocast, at "
        f"the recorded weights.",
    )
