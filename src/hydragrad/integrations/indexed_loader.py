"""A loader that remembers the samples of its batches, for loops that hand on the batches alone."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from hydragrad.errors import StepError
from hydragrad.recording import Indices, Recorder, indexed


class IndexedLoader:
    """Stands for a loader: the same batches in the same order, and the samples of each.

    Args:
        loader: A stock DataLoader over a map-style data set, or one that accelerate prepared.

    Attributes:
        recorder: Where it resumed inside an epoch, the recorded batches of that are skipped, once.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.recorder: Recorder | None = None
        self._given: deque[tuple[Any, Indices]] = deque()

    def __iter__(self) -> Iterator[Any]:
        self._given.clear()
        for indices, batch in indexed(self.loader, recorder=self.recorder):
            self._given.append((batch, indices))
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.loader, name)

    def samples_of(self, batch: Any) -> Indices:
        """The samples of a batch that came from here; those before it are forgotten.

        Raises:
            StepError: It did not.
        """
        while self._given:
            given, indices = self._given.popleft()
            if given is batch:
                return indices
        raise StepError(
            f"The loop must train on the batches of its loader, in their order; it trained on a "
            f"{type(batch).__name__} that did not come from there: it was copied, or put together, after it was "
            f"loaded. Make batches in the data set or in the collate function."
        )

    def next_samples(self) -> Indices:
        """The samples of the oldest batch that was not asked for, where a loop moves batches and so copies them.

        Raises:
            StepError: All were.
        """
        if not self._given:
            raise StepError("The loop trained on a batch that its loader did not give. Take batches from the loader.")
        return self._given.popleft()[1]
