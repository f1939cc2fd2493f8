"""Averages of the weights next to a run (EMA, SWA): what each of their updates was, one sealed line an update."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from hydragrad.errors import RunDamaged
from hydragrad.runs.lines import read_lines

AVERAGES = "averages.jsonl"
ABOUT = "averages"
"""Entry of the manifest: how many updates each average had."""
ENTRIES = ("name", "step", "weights", "buffers", "error")


@dataclass(frozen=True)
class Update:
    """One update of an average: it became (1 - share) of what it was and share of the model.

    Attributes:
        name: Of the average.
        step: How many steps the run had made.
        weights: Share of the model's weights.
        buffers: Share of the model's floating buffers; None where they became something else.
        error: Standard error of the share of the weights, which is read off rounded numbers.
    """

    name: str
    step: int
    weights: float
    buffers: float | None
    error: float


def read_updates(run: Path) -> list[Update]:
    """The updates of every average of a run, in order; none where the run has no averages.

    Raises:
        RunDamaged: Altered lines, or updates out of order.
    """
    path = run / AVERAGES
    if not path.exists():
        return []
    updates = [Update(*(line[entry] for entry in ENTRIES)) for line in read_lines(path, "averages", ENTRIES)]
    if any(before.step > after.step for before, after in pairwise(updates)):
        raise RunDamaged(f"{path} has updates out of order. Restore it from a copy, or train again.")
    return updates


def updates_until(updates: Sequence[Update], step: int) -> int:
    """How many of the updates were made before the run made its step `step`."""
    return sum(update.step <= step for update in updates)


def to_line(update: Update) -> dict[str, str | int | float | None]:
    """What is written of an update."""
    return asdict(update)
