"""Really retrain: many changed runs, here or elsewhere, their final states saved with the run."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor

from hydragrad.errors import QueryError
from hydragrad.execution import HERE, Execution, run_jobs
from hydragrad.progress import bar
from hydragrad.replay.changed_run import Change, ChangedRun
from hydragrad.replay.on_run import OnRun
from hydragrad.replay.recording import Recording
from hydragrad.replay.repeatable import require_repeatable
from hydragrad.runs.kept import Kept
from hydragrad.runs.kept_jobs import kept_jobs

FOLDER = "retrained"

State = dict[str, Tensor]


def retrain(
    run: Recording, changes: Sequence[Change], *, execution: Execution = HERE, keep: bool
) -> Iterator[tuple[int, State]]:
    """Yield (number of the change, final parameters and buffers), as retrainings end.

    Args:
        run: A completed run.
        changes: One retraining each.
        execution: Where they run, and which slice of them.
        keep: Save final states in RUN/retrained, and read those that are there.

    Raises:
        ReplayMismatch: The run itself can't be repeated, so its changes can't be, either.
        QueryError: A slice of retrainings that are not saved.
        Unfinished: A slice, and others are missing.
    """
    if execution.part is not None and not keep:
        raise QueryError("part= needs keep=True: slices meet in RUN/retrained.")
    files = [Kept(run.path / FOLDER, "", change.key(run)) for change in changes]
    waiting = sum(not (keep and file.path.exists()) for file in files)
    if waiting:
        require_repeatable(run)
    steps = len(run.steps)
    with bar(
        f"retraining {len(changes)} times" if len(changes) > 1 else "retraining",
        len(changes) * steps,
        (len(changes) - waiting) * steps,
    ) as progress:
        here = execution.here
        work = _Retraining(run, progress.advance if here else None)

        def ended() -> None:
            progress.advance(0 if here else steps)

        if keep:
            repeat = partial(require_repeatable, run)  # a damaged file is only found when it is read
            yield from kept_jobs(work, changes, files, execution, "retrainings", first=repeat, ended=ended)
            return
        for number, state in run_jobs(work, changes, execution):
            ended()
            yield number, state


class _Retraining(OnRun):
    """Makes one changed run."""

    def __init__(self, run: Recording, advance: Callable[[], None] | None) -> None:
        super().__init__(run)
        self._advance = advance

    def __call__(self, change: Change) -> State:
        run = ChangedRun(self.run, change)
        with run.replay() as replay:
            for done in run.repeat(replay):
                if done and self._advance is not None:
                    self._advance()
            end = run.asked_about(run.reached(replay, len(run.steps)))
            state = end.parameters | end.buffers
            return {name: value.cpu().clone() for name, value in state.items()}
