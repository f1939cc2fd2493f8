"""Contributions averaged over replays that each leave out their own random share of the samples.

Where a run has kinks, its derivative at the run itself is that of one linear piece. Averaged over neighbouring runs
that each miss some samples, it is a slope over the very cloud of removals that one wants to foretell.
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
from hydragrad.replay.reweighted import Reweighted
from hydragrad.scores import Curvature


def kept_weights(length: int, share: float, seed: int) -> Tensor:
    """Loss weights of a replay: 0 for a random `share` of the samples, 1 for the others, (length,)."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.ones(length)
    weights[torch.randperm(length, generator=generator)[: max(1, round(share * length))]] = 0.0
    return weights


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
    """Average the sweeps of several runs; finished ones are kept until all are done.

    Args:
        job: What is asked, of the run itself.
        prepare: Asks the same of another run.
        replays: Their numbers: which samples a replay leaves out follows from its number alone.
        share: Of the samples, left out by each.
        curvature: "hessian" or "ggn".
        memory: Bytes for replayed states, and for checkpoints.
        workers: Processes.
    """
    partials = [Partial(job, f"{curvature} replay {number} without {share}") for number in replays]
    found = {place: kept for place, partial in enumerate(partials) if (kept := partial.load())}
    waiting = [place for place in range(len(replays)) if place not in found]
    run = job.run

    def work(place: int) -> dict[str, Tensor]:
        weights = kept_weights(run.manifest.data["length"], share, replays[place])
        tally, drift = sweep(prepare(Reweighted(run, weights, memory=memory)), curvature=curvature, memory=memory)
        return tally.state() | {"drift": torch.tensor(drift, dtype=torch.float64)}

    with bar("replaying without some samples", len(replays), len(found), unit="replays") as progress:
        for place, result in _each(work, waiting, workers):
            found[place] = result
            partials[place].save(result, now=True)
            progress.advance()
    for partial in partials:
        partial.remove()
    tally = Tally(job)
    # In the order of the replays, not in that in which workers finished, so that sums round alike.
    results = [found[place] for place in range(len(replays))]
    tally.restore({name: torch.stack([each[name] for each in results]).mean(0) for name in tally.state()})
    return tally, max(each["drift"].item() for each in results)


def _each(
    work: Callable[[int], dict[str, Tensor]], places: Sequence[int], workers: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    for at, result in run_jobs(work, places, workers=workers):
        yield places[at], result
