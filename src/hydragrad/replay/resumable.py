"""A fold over segments of a run that may be interrupted: finished segments are saved, and skipped the next time.

What is done to a segment is a function of the state before it. Everything else is here: which segments are waiting, the
progress bar, saving, and what counts when a segment is interrupted.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Generic, NamedTuple, Protocol, TypeVar

from hydragrad.progress import bar
from hydragrad.replay.recording import Recording
from hydragrad.replay.replay import Replay

State = TypeVar("State")

Segment = tuple[int, int]
"""Steps [start, stop)."""


class Folded(NamedTuple, Generic[State]):
    """The result for the segments that are done.

    Attributes:
        state: The state after them.
        done: Their first steps.
        drift: Largest drift of the replay at their ends.
    """

    state: State
    done: tuple[int, ...] = ()
    drift: float = 0.0


class Saver(Protocol[State]):
    """Where the result for the segments that are done is saved, so that an interrupted fold can be resumed."""

    def load(self) -> Folded[State] | None:
        """What an interrupted fold saved; None if there is nothing."""
        ...

    def save(self, folded: Folded[State], *, now: bool = False) -> None:
        """Save; an implementation may leave out some of the calls without `now`."""
        ...

    def remove(self) -> None:
        """Delete what is saved: the fold is complete."""
        ...


def fold_segments(
    stage: str,
    segments: Sequence[Segment],
    through: Callable[[Segment, State], Generator[State, None, None]],
    start: Folded[State],
    *,
    replay: Replay,
    saver: Saver[State] | None = None,
) -> Folded[State]:
    """Take a state through segments, one after the other; a segment counts as a whole or not at all.

    Args:
        stage: Title of the progress bar.
        segments: In the order in which they are taken.
        through: Takes a state through a segment; yields once a step, the last time the state after the segment. It must
            leave the state that it gets as it is.
        start: The state before the first segment, and the segments that it takes into account already.
        replay: What `through` replays with; its drift is noted.
        saver: Saves the result after every segment; None where `through` itself saves every step.
    """
    saved = None if saver is None else saver.load()
    folded = start if saved is None else saved
    steps = {first: stop - first for first, stop in segments}
    already = sum(count for first, count in steps.items() if first in folded.done)
    with bar(stage, sum(steps.values()), already) as progress:
        for segment in segments:
            if segment[0] in folded.done:
                continue
            after = folded.state
            try:
                with closing(through(segment, after)) as states:
                    for state in states:
                        after = state
                        progress.advance()
            except KeyboardInterrupt:
                if saver is not None:
                    saver.save(folded, now=True)
                raise
            folded = Folded(after, (*folded.done, segment[0]), max(folded.drift, replay.drift))
            if saver is not None:
                saver.save(folded)
    if saver is not None:
        saver.remove()
    return folded


def check_end(run: Recording, replay: Replay, stop: int) -> None:
    """Compare a replay that has reached step `stop` with the checkpoint there, if there is one.

    Raises:
        ReplayMismatch: They differ.
    """
    if run.has_checkpoint(stop):
        replay.check_against(run.checkpoint(stop))
