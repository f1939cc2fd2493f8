"""Whether a run can be repeated at all, before it is repeated with a change.

A changed run leads elsewhere than the record. What it gives is what really would have happened only if the same run,
unchanged, gives the record: with this data, model and loss, at every step.
"""

from hydragrad.progress import bar
from hydragrad.replay.recording import Recording
from hydragrad.replay.resumable import check_end


def require_repeatable(run: Recording) -> None:
    """Repeat those steps of a run that were not repeated since it was opened.

    Later changes of the data are noticed by the digests of the batches.

    Raises:
        ReplayMismatch: A step can't be repeated; names it.

    Cost: at most one training, once for an opened run; nothing after an attribution.
    """
    waiting = [(start, stop) for start, stop in run.segments if not run.repeated.issuperset(range(start, stop))]
    if not waiting:
        return
    with (
        bar("repeating the run as it was", sum(stop - start for start, stop in waiting)) as progress,
        run.replay() as replay,
    ):
        for start, stop in waiting:
            replay.trajectory.restore(run.checkpoint(start))
            for record in run.steps[start:stop]:
                replay.advance(record, run.batches(record))
                progress.advance()
            check_end(run, replay, stop)
            run.repeated.update(range(start, stop))
