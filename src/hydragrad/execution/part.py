"""A slice of the jobs of a call, for anything that starts many processes: SLURM's arrays, a shell loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from hydragrad.errors import QueryError

PartOption = str | tuple[int, int] | None
"""What `part=` takes: "3/16" or (3, 16), the third of sixteen; None, no slice."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of several slices.

    Attributes:
        number: 1 to count.
        count: How many there are.

    Raises:
        QueryError: A number out of range.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise QueryError(f"part takes a slice from 1/N to N/N, as in 3/16, got {self}.")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def of(cls, option: PartOption) -> Self | None:
        """Read the keyword `part`.

        Raises:
            QueryError: It is no slice.
        """
        if option is None:
            return None
        try:
            number, count = (int(word) for word in (option.split("/") if isinstance(option, str) else option))
        except (TypeError, ValueError) as error:
            raise QueryError(f"part takes a slice as in '3/16' or (3, 16), got {option!r}.") from error
        return cls(number=number, count=count)

    def first_own(self, numbers: Sequence[int]) -> list[int]:
        """The numbers of jobs with the slice's own first: every `count`-th."""
        return sorted(numbers, key=lambda number: (number % self.count != self.number - 1, number))
