"""The checkpoints that an average is over: those of a recorded run, or of a model trained elsewhere."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hydragrad.derivatives import Layout
from hydragrad.errors import QueryError, Unsupported
from hydragrad.replay import Recording
from hydragrad.replay.averages import refuse_average
from hydragrad.replay.checkpoint_spread import checkpoint_at, spread_steps
from hydragrad.replay.histories import trained_layout
from hydragrad.runs import Checkpoint
from hydragrad.scores import Evidence, Note, Solved
from hydragrad.scores.notes import interrupted
from hydragrad.trained_elsewhere import Checkpoints


@dataclass(frozen=True, kw_only=True)
class AveragedOver:
    """Some checkpoints, in order of training; the last is the trained model.

    Attributes:
        layout: Lays out the trained parameters.
        read: Reads one checkpoint each.
        names: Of checkpoints of a model trained elsewhere; none for a run's.
        steps: After how many steps of the run they were made; none elsewhere.
        digests: Of checkpoints of a model trained elsewhere; none for a run's, which has a digest of its own.
    """

    layout: Layout
    read: tuple[Callable[[], Checkpoint], ...]
    names: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    digests: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        """How many there are."""
        return len(self.read)

    @property
    def called(self) -> tuple[str, ...]:
        """What each checkpoint is called."""
        return self.names or tuple(f"step {step:,}" for step in self.steps)

    @property
    def in_words(self) -> str:
        """Where derivatives are taken."""
        if not self.names:
            several = f"averaged over {len(self)} checkpoints (after steps {', '.join(f'{s:,}' for s in self.steps)})"
            return several if len(self) > 1 else "at the trained weights"
        if len(self) > 1:
            return f"averaged over {len(self)} checkpoints of a model trained elsewhere ({', '.join(self.names)})"
        return f"at one checkpoint of a model trained elsewhere ({self.names[0]})"

    def evidence(
        self, run: Recording | Checkpoints, route: str, notes: Iterable[Note], solved: Sequence[Solved] = ()
    ) -> Evidence:
        """Evidence of scores from these checkpoints of a run, with the notes and what is to be said of the run."""
        completed = not isinstance(run, Recording) or run.completed
        unfinished = [interrupted(len(run.steps))] if isinstance(run, Recording) and not completed else []
        return Evidence(
            route=route,
            steps=0,
            completed=completed,
            run=run.digest if isinstance(run, Recording) else "",
            states=self.digests,
            notes=(*notes, *unfinished),
            solved=tuple(solved),
        )


def in_a_range(numbers: Iterable[float]) -> str:
    """Numbers in words: the one that all are, or the least and the largest."""
    every = list(numbers)
    low, high = min(every), max(every)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def averaged_over(run: Recording | Checkpoints, count: int, function: str) -> AveragedOver:
    """Choose up to `count` checkpoints that are evenly spread, the trained model among them.

    Args:
        run: The recorded run, or the checkpoints.
        count: How many at most.
        function: Name of the public function, for messages.

    Raises:
        QueryError: No checkpoint.
        Unsupported: `run` is something else, or a run that is asked about an average of its weights.
    """
    if not isinstance(run, Recording | Checkpoints):
        raise Unsupported(
            f"{function} takes a recorded run or hg.Checkpoints, got {type(run).__name__}. Open it: "
            f"hg.Recording(path, ...), or hg.Checkpoints([...], model, loss, train_set)."
        )
    refuse_average(run, function, "For one checkpoint, open the averaged weights themselves with hg.Checkpoints.")
    if count < 1:
        raise QueryError(f"{function} averages over one checkpoint or more, got checkpoints={count}.")
    if isinstance(run, Recording):
        steps = spread_steps(run, count)
        return AveragedOver(
            layout=trained_layout(run),
            read=tuple(lambda step=step: checkpoint_at(run, step) for step in steps),  # type: ignore[misc]
            steps=tuple(steps),
        )
    numbers = run.spread(count)
    return AveragedOver(
        layout=run.layout,
        read=tuple(lambda number=number: run.at(number) for number in numbers),  # type: ignore[misc]
        names=tuple(run.names[number] for number in numbers),
        digests=tuple(run.digests[number] for number in numbers),
    )
