"""Unfinished attributions, saved in the run directory so that an interrupted one is resumed."""

import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

from hydragrad.attribution.gradients import QueryGradients
from hydragrad.attribution.plan import Plan
from hydragrad.replay.resumable import Folded
from hydragrad.runs.kept import Kept, Key, tensor_key

SAVE_EVERY_SECONDS = 20.0

State = TypeVar("State")


class Partial:
    """Tensors of one attribution on disk: another run, another query or other options have another file.

    Args:
        plan: What is attributed, and how.
        gradients: Of which queries.
        method: Curvature and route.

    Attributes:
        file: Where they lie.
    """

    def __init__(self, plan: Plan, gradients: QueryGradients, method: str) -> None:
        tensors = [tensor_key(tensor) for tensor in (gradients.w_bar, gradients.r_bar, plan.sample_ids)]
        self._folder = plan.run.path / "scores"
        key = [plan.run.digest, method, plan.method.damping, plan.smoothing, plan.classes, plan.stretches, *tensors]
        key += ["parts"] if plan.parts else []
        key += [plan.method.removal] if plan.method.removal != "weight" else []
        self._key = key
        self.file = Kept(self._folder, "partial", key)

    def of_job(self, job: Key) -> Kept:
        """The file of a job of this attribution."""
        return Kept(self._folder, "partial", [*self._key, job])

    def read(self) -> dict[str, Tensor] | None:
        """What was written, if anything."""
        result = self.file.read()
        return None if result is None else result[0]

    def write(self, tensors: Mapping[str, Tensor]) -> bool:
        """Write; False on a read-only or full disk, where a run can be attributed, just not resumed."""
        return self.file.write(tensors)

    def remove(self) -> None:
        """Delete the file: the attribution is done."""
        self.file.remove()


class PartialFold(Generic[State]):
    """Saves a fold over segments in a Partial, not more often than every SAVE_EVERY_SECONDS.

    Args:
        partial: Where.
        pack: The state's tensors.
        unpack: The state of its tensors.
    """

    def __init__(
        self,
        partial: Partial,
        pack: Callable[[State], dict[str, Tensor]],
        unpack: Callable[[Mapping[str, Tensor]], State],
    ) -> None:
        self._partial, self._pack, self._unpack = partial, pack, unpack
        self._saved = time.monotonic()

    def load(self) -> Folded[State] | None:
        """What an interrupted attribution saved; None if there is nothing that this version can read."""
        tensors = self._partial.read()
        if tensors is None:
            return None
        try:
            return Folded(self._unpack(tensors), tuple(tensors["done"].tolist()), tensors["drift"].item())
        except KeyError:
            return None

    def save(self, folded: Folded[State], *, now: bool = False) -> None:
        """Save the state, if it is time or `now`."""
        if not now and time.monotonic() - self._saved < SAVE_EVERY_SECONDS:
            return
        numbers = {
            "done": torch.tensor(folded.done, dtype=torch.int64),
            "drift": torch.tensor(folded.drift, dtype=torch.float64),
        }
        if self._partial.write(self._pack(folded.state) | numbers):
            self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete the file: the attribution is done."""
        self._partial.remove()
