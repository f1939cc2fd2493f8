"""A fold over segments: finished segments are saved and skipped, interrupted ones count as if they had never begun."""

import pytest

from cases import Case, record
from hydragrad.errors import ReplayMismatch
from hydragrad.replay.resumable import Folded, check_end, fold_segments

SEGMENTS = [(0, 3), (3, 5), (5, 9)]


class Replay:
    """Has a drift that grows."""

    drift = 0.0


class Saved:
    """A saver in memory."""

    def __init__(self, folded=None):
        self.folded, self.writes, self.removed = folded, [], False

    def load(self):
        return self.folded

    def save(self, folded, *, now=False):
        self.folded = folded
        self.writes.append(now)

    def remove(self):
        self.folded, self.removed = None, True


def adding(replay, visited, interrupt_at=None):
    """Adds the numbers of the steps, one after the other."""

    def through(segment, state):
        for step in range(*segment):
            if step == interrupt_at:
                raise KeyboardInterrupt
            visited.append(step)
            state += step
            yield state
        replay.drift = max(replay.drift, segment[1] / 100)

    return through


@pytest.mark.parametrize("order", [SEGMENTS, SEGMENTS[::-1], [SEGMENTS[1], SEGMENTS[2], SEGMENTS[0]]])
def test_the_state_goes_through_every_segment_in_order(order):
    replay, visited, saved = Replay(), [], Saved()
    folded = fold_segments("adding", order, adding(replay, visited), Folded(0), replay=replay, saver=saved)
    assert visited == [step for segment in order for step in range(*segment)]
    assert folded == Folded(sum(range(9)), tuple(start for start, _ in order), 0.09)
    assert saved.writes == [False] * 3 and saved.removed


def test_an_interrupted_segment_counts_for_nothing_and_a_resumed_fold_skips_what_is_done():
    replay, visited, saved = Replay(), [], Saved()
    with pytest.raises(KeyboardInterrupt):
        fold_segments("adding", SEGMENTS, adding(replay, visited, 4), Folded(0), replay=replay, saver=saved)
    assert saved.folded == Folded(0 + 1 + 2, (0,), 0.03)
    assert saved.writes == [False, True], "an interruption saves at once"
    replay, visited = Replay(), []
    folded = fold_segments("adding", SEGMENTS, adding(replay, visited), Folded(0), replay=replay, saver=saved)
    assert visited == list(range(3, 9))
    assert folded.state == sum(range(9)) and folded.drift == 0.09


def test_without_a_saver_the_start_says_what_is_done():
    replay, visited = Replay(), []
    folded = fold_segments("adding", SEGMENTS, adding(replay, visited), Folded(100, (0, 5)), replay=replay)
    assert visited == [3, 4] and folded.state == 107
    with pytest.raises(KeyboardInterrupt):
        fold_segments("adding", SEGMENTS, adding(replay, [], 4), Folded(0), replay=replay)


def test_the_end_of_a_segment_is_compared_with_its_checkpoint(tmp_path):
    run = record(Case("mlp", "momentum"), tmp_path / "run", checkpoint_every=4)
    with run.replay() as replay:
        replay.trajectory.restore(run.checkpoint(0))
        for step in run.steps[:4]:
            replay.advance(step, run.batches(step))
        check_end(run, replay, 4)
        check_end(run, replay, 5)  # where there is none
        with pytest.raises(ReplayMismatch, match="before step 8 differ"):
            check_end(run, replay, 8)
