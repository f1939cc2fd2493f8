"""Labels as the data count them, and as people call them."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from hydragrad.errors import MarksInvalid, PresentationError


class LabelNames:
    """The labels that exist, and their names.

    Args:
        labels: Every label that exists; those of `classes` if it is given.
        classes: Name of label 0, 1, ...; labels are called by their numbers if None.

    Attributes:
        names: Label to name, in the order of the labels.

    Raises:
        PresentationError: Two labels of one name, which no tool can tell apart, or an empty name.
    """

    def __init__(self, labels: Collection[int], classes: Sequence[str] | None) -> None:
        named = (
            {label: str(label) for label in sorted(labels)} if classes is None else dict(enumerate(map(str, classes)))
        )
        self.names: dict[int, str] = {label: name.strip() for label, name in named.items()}
        self._numbers = {name: label for label, name in self.names.items()}
        if len(self._numbers) < len(self.names):
            twice = next(name for label, name in self.names.items() if self._numbers[name] != label)
            raise PresentationError(f"classes calls two labels {twice!r}. Give every label a name of its own.")
        if "" in self._numbers:
            raise PresentationError(f"classes has an empty name for label {self._numbers['']}. Give it a name.")
        self._have_names = classes is not None
        self._some_name_is_a_number = any(isinstance(whole(name), int) for name in self._numbers)

    def number(self, value: Any) -> Any:
        """The label that a cell of a file means, a name or a number; the value itself where it means none.

        Where some class is called by a number, text is a name and never a number.
        """
        if isinstance(value, str):
            text = value.strip()
            return self._numbers.get(text, text if self._some_name_is_a_number else whole(text))
        return whole(value)

    def require_called(self, source: str, label: Any, name: Any) -> None:
        """Require that a label has the name by which a file calls it, where the file says so.

        Raises:
            MarksInvalid: It has another, so that the file's names would mean other labels.
        """
        known = self.names.get(label) if isinstance(label, int) else None
        if known is None or not isinstance(name, str) or name.strip() in ("", known):
            return
        if self._have_names or isinstance(whole(name), int):
            raise MarksInvalid(
                f"{source} calls label {label} {name.strip()!r}; here it is called {known!r}. Pass the names with "
                f"which the suspects were exported: classes=[...]."
            )


def whole(value: Any) -> Any:
    """A whole number, also where it is written as 3.0 or as text; anything else as it is."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        digits = value.strip().removesuffix(".0")
        return int(digits) if digits.removeprefix("-").isdecimal() and digits.isascii() else value
    return value
