"""Contributions averaged over replays that each leave out their own random share of the samples.

Where a run has kinks, its derivative at the run itself is that of one linear piece. Averaged over neighbouring runs
that each miss some samples, it is a slope over the very cloud of removals that is to be predicted.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hydragrad.attribution.plan import Job, Tally
from hydragrad.attribution.resumable import Partial
from hydragrad.attribution.sweep import sweep
from hydragrad.execution import run_jobs
from hydragrad.progress import bar
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change, ChangedRun


def leave_out(length: int, share: float, seed: int) -> Change:
    """The change of a replay: loss weight 0 for a random `share` of `length` samples."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randperm(length, generator=generator)[: max(1, round(share * length))]
    return Change(weights=dict.fromkeys(samples.tolist(), 0.0))


def over_replays(
    job: Job,
    prepare: Callable[[Recording], Job],
    *,
    memory: int,
    workers: int,
) -> tuple[Tally, float]:
    """Average the sweeps of several runs; finished ones are saved until all are done.

    Args:
        job: The attribution of the run itself; its method says which replays, and which share they leave out.
        prepare: The same attribution of another run.
        memory: Bytes for replayed states, and for checkpoints.
        workers: Processes.

    Returns:
        The mean of their tallies, and the largest drift.
    """
    run, method = job.run, job.method
    numbers = method.replays
    partials = [Partial(job, f"{method.curvature} replay {number} without {method.drop}") for number in numbers]
    results = {place: state for place, partial in enumerate(partials) if (state := partial.load())}
    waiting = [place for place in range(len(numbers)) if place not in results]

    def work(place: int) -> dict[str, Tensor]:
        change = leave_out(run.manifest.data["length"], method.drop, numbers[place])
        tally, drift = sweep(prepare(ChangedRun(run, change, memory=memory)), memory=memory)
        return tally.state() | {"drift": torch.tensor(drift, dtype=torch.float64)}

    with bar("replaying without some samples", len(numbers), len(results), unit="replays") as progress:
        for at, state in run_jobs(work, waiting, workers=workers):
            results[waiting[at]] = state
            partials[waiting[at]].save(state, now=True)
            progress.advance()
    for partial in partials:
        partial.remove()
    tally = Tally(job)
    # In the order of the replays, not in that in which workers finished, so that sums round alike.
    states = [results[place] for place in range(len(numbers))]
    tally.restore({name: torch.stack([state[name] for state in states]).mean(0) for name in tally.state()})
    return tally, max(state["drift"].item() for state in states)
