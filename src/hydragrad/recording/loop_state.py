"""The state of a user's loop: what a checkpoint of it holds, read and restored."""

from typing import Any

from torch import nn

from hydragrad.randomness import every_generator_state, set_generator_states
from hydragrad.recording.averages import Averages
from hydragrad.runs.checkpoints import Checkpoint, resume_from, snapshot
from hydragrad.steps import Together


class LoopState:
    """Model, optimizer, scheduler, averages and global generators of a loop.

    Args:
        model, optimizer: The loop's own objects.
        scheduler: Its scheduler, or several in a list, or None.
        averages: The averages that it keeps of the weights.
    """

    def __init__(self, model: nn.Module, optimizer: Together, scheduler: Any, averages: Averages) -> None:
        self._model, self._optimizer, self._scheduler, self._averages = model, optimizer, scheduler, averages

    def checkpoint(self, step: int, sampler: dict[str, Any]) -> Checkpoint:
        """Copy the present state.

        Args:
            step: The step that comes next.
            sampler: Where the loader stands.
        """
        return snapshot(
            step,
            self._model,
            self._optimizer,
            generators=every_generator_state(),
            sampler=sampler,
            scheduler=_state_of(self._scheduler),
            averages=self._averages.entries(),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Set everything but the loader to a checkpoint.

        Raises:
            RecordingMismatch: The optimizer has another number of parameter groups, or other averages are kept.
        """
        resume_from(checkpoint, self._model, self._optimizer)
        if self._scheduler is not None and checkpoint.scheduler is not None:
            several = isinstance(self._scheduler, list | tuple)
            schedulers, states = (
                (self._scheduler, checkpoint.scheduler) if several else ([self._scheduler], [checkpoint.scheduler])
            )
            for scheduler, state in zip(schedulers, states, strict=True):
                scheduler.load_state_dict(state)
        self._averages.restore(checkpoint.averages, checkpoint.step)
        if checkpoint.generators:  # one of several processes may have been killed before it noted them
            set_generator_states(checkpoint.generators)


def _state_of(scheduler: Any) -> Any:
    if isinstance(scheduler, list | tuple):
        return [one.state_dict() for one in scheduler]
    return None if scheduler is None else scheduler.state_dict()
