"""Attribution by the transpose of the run, swept from its last step to its first.

The cotangents of weights, optimizer states and running statistics start at the query's gradients and go back step by
step: through the optimizer's step, the transforms of the gradient, and the curvature product of every micro-batch at
g_bar. Where the query is about an average of the weights, a share of its gradients enters after every step. The states
that the sweep needs are replayed forward, segment by segment, and held in memory only as far as a
budget allows. Without curvature the same sweep has no product; rules without a closed form take it.
"""

from collections.abc import Generator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.attribution.gradients import QueryGradients
from hydragrad.attribution.moments import backwards
from hydragrad.attribution.partial import Partial, PartialFold
from hydragrad.attribution.plan import Plan
from hydragrad.attribution.reverse_step import Cotangents, ReverseStep
from hydragrad.attribution.routes import Comparisons
from hydragrad.attribution.summed import Summed
from hydragrad.attribution.tally import Tally
from hydragrad.derivatives import LossModule, require_symmetric, use_explicit_batch_norm
from hydragrad.replay.averages import Ends
from hydragrad.replay.histories import state_names
from hydragrad.replay.resumable import Folded, Segment, fold_segments


class Swept(NamedTuple):
    """What the sweep has when it has come back to a step: the cotangents there, and the sums over later steps."""

    cotangents: Cotangents
    tally: Tally

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be saved."""
        w_bar, states, r_bar = self.cotangents
        named = {f"state_{number}": state for number, state in enumerate(states)}
        return {"w_bar": w_bar, "r_bar": r_bar} | named | self.tally.sums()

    def of(self, tensors: Mapping[str, Tensor]) -> "Swept":
        """The same with other tensors."""
        saved = {name: tensors[name].to(tensor.device) for name, tensor in self.tensors().items()}
        states = tuple(saved[f"state_{number}"] for number in range(len(self.cotangents.states)))
        return Swept(Cotangents(saved["w_bar"], states, saved["r_bar"]), self.tally.of(saved))


def sweep(plan: Plan, gradients: QueryGradients, *, memory: int, comparisons: Comparisons | None = None) -> Summed:
    """Sweep the whole run and sum the derivatives.

    Args:
        plan: Which run and method.
        gradients: Of the queries at the final model.
        memory: Bytes that replayed states may take.
        comparisons: Count what is compared.

    Raises:
        Unsupported: No derivative of the model is that of the gradient that trained.
    """
    run, ends, w_bar = plan.run, plan.run.ends, gradients.w_bar
    zeros = tuple(torch.zeros_like(w_bar) for _ in state_names(plan.histories))
    nothing = Cotangents(torch.zeros_like(w_bar), zeros, torch.zeros_like(gradients.r_bar))
    end = Swept(nothing, Tally(plan, len(gradients.names)))
    saver = PartialFold(Partial(plan, gradients, plan.method.curvature), Swept.tensors, end.of)
    with run.replay() as replay:
        reverse = ReverseStep(plan, replay, comparisons or Comparisons.fresh())

        def through(segment: Segment, swept: Swept) -> Generator[Swept, None, None]:
            start, stop = segment
            cotangents, tally = swept.cotangents, swept.tally.copy()
            for moment in backwards(plan, replay, run.checkpoint(start), stop, memory):
                cotangents = _with_query(cotangents, gradients, ends, moment.record.step)
                cotangents = reverse(moment, cotangents, tally)
                yield Swept(cotangents, tally)

        folded = fold_segments("attributing", run.segments[::-1], through, Folded(end), replay=replay, saver=saver)
    return Summed(folded.state.tally, folded.drift, run.exact)


def _with_query(cotangents: Cotangents, gradients: QueryGradients, ends: Ends, step: int) -> Cotangents:
    """The cotangents after a step, with what the query has of the state there: all of it after the last step, as a
    rule, and a share of it after every step where the query is about an average of the weights."""
    weights, statistics = ends.weights[step], 0.0 if ends.statistics is None else ends.statistics[step]
    if not weights and not statistics:
        return cotangents
    w_bar = torch.add(cotangents.w_bar, gradients.w_bar, alpha=weights)
    r_bar = torch.add(cotangents.r_bar, gradients.r_bar, alpha=statistics)
    return cotangents._replace(w_bar=w_bar, r_bar=r_bar)


def require_curvature(plan: Plan) -> None:
    """Refuse runs whose trained gradient has no symmetric derivative, judged by the first and by a late step.

    Raises:
        Unsupported: The gradient is stopped on its way, where that changes it.
    """
    problem = LossModule(plan.run.model, plan.run.loss, use_explicit_batch_norm)
    with plan.run.replay() as replay:
        trajectory = replay.trajectory
        for start in sorted({plan.run.segments[0][0], plan.run.segments[-1][0]}):
            record = plan.run.steps[start]
            trajectory.restore(plan.run.checkpoint(start))
            trajectory.arrange(record)
            problem.take_modes(trajectory.model)
            for batch in plan.run.batches(record)[:1]:
                require_symmetric(problem, plan.weights, trajectory.parameters, trajectory.buffers, batch)
