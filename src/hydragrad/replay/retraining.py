"""Really retrain: many changed runs, on several workers, their final states saved with the run."""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from hydragrad.execution import run_jobs
from hydragrad.progress import bar
from hydragrad.replay.changed_run import Change, ChangedRun
from hydragrad.replay.recording import Recording
from hydragrad.replay.repeatable import require_repeatable
from hydragrad.runs.kept import Kept

FOLDER = "retrained"

State = dict[str, Tensor]


def retrain(run: Recording, changes: Sequence[Change], *, workers: int, keep: bool) -> Iterator[tuple[int, State]]:
    """Yield (number of the change, final parameters and buffers), as retrainings end.

    Args:
        run: A completed run.
        changes: One retraining each.
        workers: Processes.
        keep: Save final states in RUN/retrained, and read those that are there.

    Raises:
        ReplayMismatch: The run itself can't be repeated, so its changes can't be, either.
    """
    files = [Kept(run.path / FOLDER, "", change.key(run)) for change in changes]
    saved = [file.read() if keep else None for file in files]
    waiting = [number for number, result in enumerate(saved) if result is None]
    if waiting:
        require_repeatable(run)
    steps = len(run.steps)
    with bar(
        f"retraining {len(changes)} times" if len(changes) > 1 else "retraining",
        len(changes) * steps,
        (len(changes) - len(waiting)) * steps,
    ) as progress:
        for number, result in enumerate(saved):
            if result is not None:
                yield number, result[0]
        here = workers == 1 or len(waiting) < 2
        work = _Retraining(run, progress.advance if here else None)
        for place, state in run_jobs(work, [changes[number] for number in waiting], workers=workers):
            if not here:
                progress.advance(steps)
            if keep:
                files[waiting[place]].write(state)
            yield waiting[place], state


class _Retraining:
    """Makes one changed run; a class, so that it can be sent to workers."""

    def __init__(self, run: Recording, advance: Callable[[], None] | None) -> None:
        self._run, self._advance = run, advance

    def __call__(self, change: Change) -> State:
        run = ChangedRun(self._run, change)
        with run.replay() as replay:
            for done in run.repeat(replay):
                if done and self._advance is not None:
                    self._advance()
            end = run.asked_about(run.reached(replay, len(run.steps)))
            state = end.parameters | end.buffers
            return {name: value.cpu().clone() for name, value in state.items()}
