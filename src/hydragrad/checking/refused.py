"""Refusal: an error as an entry of a table, its cause and what to change told apart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hydragrad.errors import HydragradError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Refusal:
    """Why something is refused.

    Attributes:
        error: Name of the error's class.
        message: All that it says.
        repeats: Whether another entry of the table says it.
        foreign: Whether it is none of the library's errors.
    """

    error: str
    message: str
    repeats: bool = False
    foreign: bool = False

    @property
    def cause(self) -> str:
        """What was expected and found, which is all but the last sentence where there are several."""
        before, _, last = self._parted
        return before or last

    @property
    def change(self) -> str:
        """What to do, which is the last sentence where there are several."""
        before, _, last = self._parted
        return last if before else ""

    @property
    def _parted(self) -> tuple[str, str, str]:
        before, stop, last = self.message.rpartition(". ")
        return before + stop.rstrip(), stop, last


def refusal_of(error: Exception) -> Refusal:
    """The entry of an error; one that is not the library's is named as such."""
    told = str(error.args[-1] if isinstance(error, HydragradError) and error.args else error)
    kind = type(error).__name__
    if isinstance(error, HydragradError):
        return Refusal(kind, told)
    first = (told.strip() or kind).splitlines()[0].rstrip(". ")
    return Refusal(
        kind, f"{kind}: {first}. The error is not one of hydragrad's: look at model, loss and data first.", foreign=True
    )


def attempt(job: Callable[[], Result]) -> tuple[Result | None, Refusal | None]:
    """What a job gave, or why it gave nothing."""
    try:
        return job(), None
    except Exception as error:
        return None, refusal_of(error)
