"""Labels as they are counted in the data, and as a person calls them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hydragrad.errors import PresentationError

NONE = 0xFFFF
"""Code of a label that is not known."""


@dataclass(frozen=True)
class LabelNames:
    """Every label that occurs, in order, and its name.

    Attributes:
        values: The labels as they stand in the data.
        names: What they are called.
    """

    values: tuple[int | str, ...]
    names: tuple[str, ...]
    _code: dict[int | str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_code", {value: code for code, value in enumerate(self.values)})

    def name(self, label: int | str | None) -> str:
        """What a label is called; a dash for none."""
        return "–" if label is None else self.names[self._code[label]]

    def codes(self, labels: Iterable[Any]) -> NDArray[np.uint16]:
        """Place of each label in the table; NONE where it is not known."""
        return np.array([NONE if (value := plain(label)) is None else self._code[value] for label in labels], np.uint16)


def label_names(columns: Iterable[Iterable[Any]], classes: Sequence[str] | None, count: int = 0) -> LabelNames:
    """Name every label that occurs.

    Args:
        columns: Labels, as integers or strings; None and NaN for those that are not known.
        classes: Name of each integer label.
        count: Labels 0 to count - 1 exist even where they do not occur.

    Raises:
        PresentationError: A label without a name.
    """
    seen = {value for column in columns for label in column if (value := plain(label)) is not None}
    numbers = sorted({value for value in seen if isinstance(value, int)} | set(range(count)))
    words = sorted(value for value in seen if isinstance(value, str))
    if classes is not None:
        wrong = [value for value in numbers if not 0 <= value < len(classes)]
        if wrong:
            raise PresentationError(f"Label {wrong[-1]} has no name: classes names {len(classes)} labels.")
        numbers = list(range(len(classes)))
    if len(numbers) + len(words) >= NONE:
        raise PresentationError(f"{len(numbers) + len(words):,} different labels are more than a page can list.")
    named = [str(number) if classes is None else str(classes[number]) for number in numbers]
    return LabelNames((*numbers, *words), (*named, *words))


def plain(label: Any) -> int | str | None:
    """A label as an integer or a string; None where there is none."""
    if label is None or isinstance(label, str):
        return label
    if pd.isna(label):
        return None
    return int(label)  # a column with gaps holds floats
