"""A query as it is typed on the command line: a data set, or one sample of it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from hydragrad.errors import QueryError


@dataclass(frozen=True)
class NamedQuery:
    """`validation` (the mean loss of a data set) or `test:42` (the loss of one sample).

    Attributes:
        data_set: Name of the data set.
        sample: Which sample; None for the mean over all.
    """

    data_set: str
    sample: int | None = None

    @classmethod
    def parse(cls, text: str, data_sets: Collection[str]) -> Self:
        """Read what was typed.

        Raises:
            QueryError: No such data set, or no number of a sample.
        """
        name, colon, index = text.partition(":")
        if name not in data_sets or (colon and not index.isdigit()):
            raise QueryError(
                f"--query takes one of {', '.join(data_sets)}, or one sample of it, as in {next(iter(data_sets))}:42, "
                f"got {text!r}."
            )
        return cls(name, int(index) if colon else None)
