"""Whether the losses that a loop reported are those of its steps: a mean over the epoch, or four digits, are not.

Which it is shows in how they begin: three steps in a row whose reported losses are the replayed ones.
"""

IN_A_ROW = 3
"""The first two of an epoch can agree by chance: a running mean starts with the loss itself."""


class ReportedLosses:
    """Finds out whether the losses that a loop reported are those of its steps."""

    def __init__(self) -> None:
        self._agreed: set[int] = set()
        self._established = self._given_up = False

    @property
    def established(self) -> bool:
        """Whether they are: from then on, one that differs is a fault."""
        return self._established

    @property
    def wanted(self) -> bool:
        """Whether they are to be compared at all."""
        return not self._given_up

    def agreed(self, step: int) -> None:
        """Note a step whose reported loss is the replayed one."""
        if not self._established:
            self._agreed.add(step)
            self._established = any(
                self._agreed.issuperset(range(first, first + IN_A_ROW))
                for first in range(step - IN_A_ROW + 1, step + 1)
            )

    def differed(self) -> None:
        """Note one that is not, before it was clear that they should be: they are not compared any more."""
        self._given_up = not self._established
