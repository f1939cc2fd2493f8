"""Contributions averaged over replays that each leave out their own random share of the samples.

Where a run has kinks, its derivative at the run itself is that of one linear piece. Averaged over neighbouring runs
that each miss some samples, it is a slope over the very cloud of removals that one wants to foretell.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hydragrad.attribution.job import Job, Tally
from hydragrad.attribution.partial import Partial
from hydragrad.attribution.sweep import sweep
from hydragrad.execution import run_jobs
from hydragrad.progress import bar
from hydragrad.recording import Recording
from hydragrad.recording.reweighted import Reweighted


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
    replays: int,
    share: float,
    gauss_newton: bool,
    memory: int,
    workers: int,
) -> tuple[Tally, float]:
    """Average the sweeps of `replays` runs; finished ones are kept until all are done.

    Args:
        job: What is asked, of the run itself.
        prepare: Asks the same of another run.
        replays: How many.
        share: Of the samples, left out by each.
        gauss_newton: J' H_out J in place of the Hessian.
        memory: Bytes for replayed states, and for checkpoints.
        workers: Processes.
    """
    method = "ggn" if gauss_newton else "hessian"
    partials = [Partial(job, f"{method} replay {number} without {share}") for number in range(replays)]
    found = {number: kept for number, partial in enumerate(partials) if (kept := partial.load())}
    waiting = [number for number in range(replays) if number not in found]
    run = job.run

    def work(number: int) -> dict[str, Tensor]:
        weights = kept_weights(run.manifest.data["length"], share, number)
        tally, drift = sweep(prepare(Reweighted(run, weights, memory=memory)), gauss_newton=gauss_newton, memory=memory)
        return tally.state() | {"drift": torch.tensor(drift, dtype=torch.float64)}

    with bar("replaying without some samples", replays, len(found), unit="replays") as progress:
        for place, result in _each(work, waiting, workers):
            found[place] = result
            partials[place].save(result, now=True)
            progress.advance()
    for partial in partials:
        partial.remove()
    tally = Tally(job)
    tally.restore({name: torch.stack([each[name] for each in found.values()]).mean(0) for name in tally.state()})
    return tally, max(each["drift"].item() for each in found.values())


def _each(
    work: Callable[[int], dict[str, Tensor]], numbers: Sequence[int], workers: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    for place, result in run_jobs(work, numbers, workers=workers):
        yield numbers[place], result
