"""Contributions averaged over replays that each leave out their own random share of the samples.

Where a run has kinks, its derivative at the run itself is that of one linear piece. Averaged over neighbouring runs
that each miss some samples, it is a slope over the very cloud of removals that is to be predicted.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.attribution.gradients import QueryGradients
from hydragrad.attribution.partial import Partial
from hydragrad.attribution.plan import Plan, make_plan
from hydragrad.attribution.robust_mean import mean_over, not_exploded
from hydragrad.attribution.summed import Summed, packed
from hydragrad.attribution.sweep import sweep
from hydragrad.attribution.tally import SUMS, Tally
from hydragrad.execution import HERE, Execution
from hydragrad.progress import bar
from hydragrad.replay.changed_run import Change, ChangedRun
from hydragrad.replay.on_run import OnRun
from hydragrad.replay.repeatable import require_repeatable
from hydragrad.runs.kept_jobs import kept_jobs


class OverReplays(NamedTuple):
    """What several replays gave.

    Attributes:
        summed: The mean of their sums, and the largest drift.
        exploded: Number of a replay → to how many queries its contributions exploded and are not in the mean.
    """

    summed: Summed
    exploded: dict[int, int]


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
    execution: Execution = HERE,
) -> OverReplays:
    """Average the sweeps of several runs; finished ones are saved until all are done.

    A replay whose contributions to a query exploded is left out of that query's mean.

    Args:
        plan: Of the run itself; its method says which replays, and which share they leave out.
        gradients: Of the queries at the run itself.
        differentiate: The gradients of the same queries at another run; sent to the workers.
        memory: Bytes for replayed states, and for checkpoints.
        execution: Where they are swept.

    Raises:
        ReplayMismatch: The run itself can't be repeated.
        NonFinite: Fewer than half of the replays have finite contributions.
        Unfinished: A slice of the replays, and results of others are missing.
    """
    method, numbers = plan.method, plan.method.replays
    partials = [Partial(plan, gradients, f"{method.curvature} at replay {n} without {method.drop}") for n in numbers]
    results: dict[int, dict[str, Tensor]] = {}
    work = _Replay(plan, differentiate, memory)
    repeat = partial(require_repeatable, plan.run)
    with bar("replaying without some samples", len(numbers), unit="replays") as progress:
        files = [one.file for one in partials]
        for place, sums in kept_jobs(work, numbers, files, execution, "replays", first=repeat):
            results[place] = sums
            progress.advance()
    # In the order of the replays, not in that in which workers finished, so that sums round alike.
    states = [results[place] for place in range(len(numbers))]
    kept = not_exploded(torch.stack([state["values"].norm(dim=1) for state in states]))
    if execution.part is None:
        for one in partials:
            one.remove()
    every = [{name: state[name] for name in SUMS} for state in states]
    tally = Tally(plan, len(gradients.names)).of(mean_over(every, kept))
    exact = plan.run.exact and all(bool(state["exact"]) for state in states)
    left_out = (~kept).sum(1).tolist()
    return OverReplays(
        summed=Summed(tally, max(state["drift"].item() for state in states), exact),
        exploded={number: count for number, count in zip(numbers, left_out, strict=True) if count},
    )


class _Replay(OnRun):
    """Sweeps the run without a replay's samples."""

    def __init__(self, plan: Plan, differentiate: Callable[[Plan], QueryGradients], memory: int) -> None:
        super().__init__(plan.run)
        self._plan, self._differentiate, self._memory = plan, differentiate, memory

    def __call__(self, number: int) -> dict[str, Tensor]:
        run, method = self.run, self._plan.method
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
        return packed(sweep(plan, self._differentiate(plan), memory=self._memory))
