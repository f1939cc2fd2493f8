"""Attribution by the transpose of the run, swept from its last step to its first.

The cotangents of weights, optimizer states and running statistics start at the query's gradients and go back step by
step: through the optimizer's step, the transforms of the gradient, and the curvature product of every micro-batch at
g_bar. The states that the sweep needs are replayed forward, segment by segment, and held in memory only as far as a
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
from hydragrad.attribution.tally import Tally
from hydragrad.derivatives import LossModule, require_symmetric, use_explicit_batch_norm
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


def sweep(
    plan: Plan, gradients: QueryGradients, *, memory: int, comparisons: Comparisons | None = None
) -> tuple[Tally, float]:
    """Sweep the whole run; return the summed derivatives and the replay's drift.

    Args:
        plan: Which run and method.
        gradients: Of the queries at the final model.
        memory: Bytes that replayed states may take.
        comparisons: Count what is compared.

    Raises:
        Unsupported: No derivative of the model is that of the gradient that trained.
    """
    run, w_bar = plan.run, gradients.w_bar
    zeros = tuple(torch.zeros_like(w_bar) for _ in state_names(plan.histories))
    end = Swept(Cotangents(w_bar, zeros, gradients.r_bar), Tally(plan, len(gradients.names)))
    saver = PartialFold(Partial(plan, gradients, plan.method.curvature), Swept.tensors, end.of)
    with run.replay() as replay:
        reverse = ReverseStep(plan, replay, comparisons or Comparisons.fresh())

        def through(segment: Segment, swept: Swept) -> Generator[Swept, None, None]:
            start, stop = segment
            cotangents, tally = swept.cotangents, swept.tally.copy()
            for moment in backwards(plan, replay, run.checkpoint(start), stop, memory):
                cotangents = reverse(moment, cotangents, tally)
                yield Swept(cotangents, tally)

        folded = fold_segments("attributing", run.segments[::-1], through, Folded(end), replay=replay, saver=saver)
    return folded.state.tally, folded.drift


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
