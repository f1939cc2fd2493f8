"""A query as it is typed on the command line: a data set, or one sample of it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from hydragrad.errors import QueryError

HALF = "-half"


@dataclass(frozen=True)
class NamedQuery:
    """`validation` (the mean loss of a data set), `validation-half` (of every other sample of it) or `test:42` (the
    loss of one sample).

    Attributes:
        data_set: Name of the data set.
        sample: Which sample; None for the mean over all.
        half: The mean over the samples with even numbers; those with odd ones are left for what must not be ranked by.
    """

    data_set: str
    sample: int | None = None
    half: bool = False

    @classmethod
    def parse(cls, text: str, data_sets: Collection[str]) -> Self:
        """Read what was typed.

        Raises:
            QueryError: No such data set, or no number of a sample.
        """
        if text.removesuffix(HALF) in data_sets and text.endswith(HALF):
            return cls(text.removesuffix(HALF), half=True)
        name, colon, index = text.partition(":")
        if name not in data_sets or (colon and not index.isdigit()):
            raise QueryError(
                f"--query takes one of {', '.join(data_sets)}, or one sample of it, as in {next(iter(data_sets))}:42, "
                f"got {text!r}."
            )
        return cls(name, int(index) if colon else None)
