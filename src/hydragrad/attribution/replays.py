"""Contributions averaged over replays that each leave out their own random share of the samples.

Where a run has kinks, its derivative at the run itself is that of one linear piece. Averaged over neighbouring runs
that each miss some samples, it is a slope over the very cloud of removals that one wants to predict.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hydragrad.attribution.plan import Job, Tally
from hydragrad.attribution.resumable import Partial
from hydragrad.attribution.sweep import sweep
from hydragrad.execution import run_jobs
from hydragrad.progress import bar
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change, ChangedRun
from hydragrad.scores import Curvature


def leave_out(length: int, share: float, seed: int) -> Change:
    """The change of a replay: loss weight 0 for a random `share` of `length` samples."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randperm(length, generator=generator)[: max(1, round(share * length))]
    return Change(weights=dict.fromkeys(samples.tolist(), 0.0))


def over_replays(
    job: Job,
    prepare: Callable[[Recording], Job],
    *,
    replays: Sequence[int],
    share: float,
    curvature: Curvature,
    memory: int,
    workers: int,
) -> tuple[Tally, float]:
    """Average the sweeps of several runs; finished ones are saved until all are done.

    Args:
        job: What is attributed, of the run itself.
        prepare: The same job for another run.
        replays: Their numbers: which samples a replay leaves out follows from its number alone.
        share: Of the samples, left out by each.
        curvature: "hessian" or "ggn".
        memory: Bytes for replayed states, and for checkpoints.
        workers: Processes.
    """
    partials = [Partial(job, f"{curvature} replay {number} without {share}") for number in replays]
    results = {place: saved for place, partial in enumerate(partials) if (saved := partial.load())}
    waiting = [place for place in range(len(replays)) if place not in results]
    run = job.run

    def work(place: int) -> dict[str, Tensor]:
        changed = ChangedRun(run, leave_out(run.manifest.data["length"], share, replays[place]), memory=memory)
        tally, drift = sweep(prepare(changed), curvature=curvature, memory=memory)
        return tally.state() | {"drift": torch.tensor(drift, dtype=torch.float64)}

    with bar("replaying without some samples", len(replays), len(results), unit="replays") as progress:
        for place, result in _by_place(work, waiting, workers):
            results[place] = result
            partials[place].save(result, now=True)
            progress.advance()
    for partial in partials:
        partial.remove()
    tally = Tally(job)
    # In the order of the replays, not in that in which workers finished, so that sums round alike.
    ordered = [results[place] for place in range(len(replays))]
    tally.restore({name: torch.stack([state[name] for state in ordered]).mean(0) for name in tally.state()})
    return tally, max(state["drift"].item() for state in ordered)


def _by_place(
    work: Callable[[int], dict[str, Tensor]], places: Sequence[int], workers: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    for at, result in run_jobs(work, places, workers=workers):
        yield places[at], result
