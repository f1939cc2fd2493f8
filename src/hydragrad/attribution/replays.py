"""Contributions averaged over replays that each leave out their own random share of the samples.

Where a run has kinks, its derivative at the run itself is that of one linear piece. Averaged over neighbouring runs
that each miss some samples, it is a slope over the very cloud of removals that is to be predicted.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hydragrad.attribution.gradients import QueryGradients
from hydragrad.attribution.partial import Partial
from hydragrad.attribution.plan import Plan, make_plan
from hydragrad.attribution.sweep import sweep
from hydragrad.attribution.tally import Tally
from hydragrad.execution import run_jobs
from hydragrad.progress import bar
from hydragrad.replay.changed_run import Change, ChangedRun
from hydragrad.replay.repeatable import require_repeatable


def leave_out(length: int, share: float, seed: int, *, renormalised: bool = False) -> Change:
    """The change of a replay: loss weight 0 for a random `share` of `length` samples."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randperm(length, generator=generator)[: max(1, round(share * length))]
    return Change(weights=dict.fromkeys(samples.tolist(), 0.0), renormalised=renormalised)


def over_replays(
    plan: Plan,
    gradients: QueryGradients,
    differentiate: Callable[[Plan], QueryGradients],
    *,
    memory: int,
    workers: int,
) -> tuple[Tally, float]:
    """Average the sweeps of several runs; finished ones are saved until all are done.

    Args:
        plan: Of the run itself; its method says which replays, and which share they leave out.
        gradients: Of the queries at the run itself.
        differentiate: The gradients of the same queries at another run; sent to the workers.
        memory: Bytes for replayed states, and for checkpoints.
        workers: Processes.

    Raises:
        ReplayMismatch: The run itself can't be repeated.

    Returns:
        The mean of their tallies, and the largest drift.
    """
    method, numbers = plan.method, plan.method.replays
    partials = [Partial(plan, gradients, f"{method.curvature} replay {n} without {method.drop}") for n in numbers]
    results = {place: sums for place, partial in enumerate(partials) if (sums := partial.read()) is not None}
    waiting = [place for place in range(len(numbers)) if place not in results]
    if waiting:
        require_repeatable(plan.run)
    work = _Replay(plan, differentiate, memory)
    with bar("replaying without some samples", len(numbers), len(results), unit="replays") as progress:
        for job, sums in run_jobs(work, [numbers[place] for place in waiting], workers=workers):
            results[waiting[job]] = sums
            partials[waiting[job]].write(sums)
            progress.advance()
    for partial in partials:
        partial.remove()
    # In the order of the replays, not in that in which workers finished, so that sums round alike.
    states = [results[place] for place in range(len(numbers))]
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    return Tally(plan, len(gradients.names)).of(mean), max(state["drift"].item() for state in states)


class _Replay:
    """Sweeps the run without a replay's samples; a class, so that it can be sent to workers."""

    def __init__(self, plan: Plan, differentiate: Callable[[Plan], QueryGradients], memory: int) -> None:
        self._plan, self._differentiate, self._memory = plan, differentiate, memory

    def __call__(self, number: int) -> dict[str, Tensor]:
        run, method = self._plan.run, self._plan.method
        renormalised = method.removal == "renormalised"
        change = leave_out(run.manifest.data["length"], method.drop, number, renormalised=renormalised)
        plan = make_plan(
            ChangedRun(run, change, memory=self._memory),
            method,
            sample_ids=self._plan.sample_ids,
            labels=self._plan.classes > 0,
            stretches=self._plan.stretches,
            parts=self._plan.parts,
        )
        tally, drift = sweep(plan, self._differentiate(plan), memory=self._memory)
        return tally.sums() | {"drift": torch.tensor(drift, dtype=torch.float64)}
