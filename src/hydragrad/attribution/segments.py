"""Attribution without curvature: a sum over steps, taken segment by segment in any order.

d phi / d alpha_i = sum over the steps that sampled i of kappa_t <grad phi, gradient of loss i> / B_t, with the
scalar coefficients kappa_t of `steps.coefficients`. Every segment is replayed from its checkpoint and adds its
terms; nothing flows from one segment to another.
"""

from collections.abc import Generator, Sequence

import numpy as np
import torch

from hydragrad.attribution.gradients import QueryGradients
from hydragrad.attribution.partial import Partial, PartialFold
from hydragrad.attribution.plan import Plan
from hydragrad.attribution.routes import ByHooks, Comparisons, Measuring, Route, layer_dots, measuring, scaled
from hydragrad.attribution.tally import Tally
from hydragrad.derivatives import why_not_hooks
from hydragrad.derivatives.coupling import CouplingWatch
from hydragrad.derivatives.held import NotHeld
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS
from hydragrad.errors import HydragradError
from hydragrad.replay import Replay
from hydragrad.replay.resumable import Folded, Segment, check_end, fold_segments
from hydragrad.runs import StepRecord
from hydragrad.steps import coefficients


def sum_segments(
    plan: Plan,
    gradients: QueryGradients,
    route: Route,
    segments: Sequence[Segment],
    comparisons: Comparisons | None = None,
) -> tuple[Tally, float]:
    """Replay segments in the given order and sum their terms; return them and the replay's drift.

    Args:
        plan: Which run and method.
        gradients: Of the queries at the final model.
        route: How derivatives are taken.
        segments: In the order in which they are taken.
        comparisons: Count what is compared.

    Raises:
        HooksInapplicable, RuntimeError, NotImplementedError: The route is not for this model.
    """
    run, empty = plan.run, Tally(plan, len(gradients.names))
    kappa = np.stack([coefficients(history, run.ends.weights) for history in plan.histories])
    needed = [(a, b) for a, b in segments if any(empty.wants(record.indices) for record in run.steps[a:b])]
    saver = PartialFold(Partial(plan, gradients, f"none-{route}"), Tally.sums, empty.of)
    compared = comparisons or Comparisons.fresh()
    with run.replay() as replay:

        def through(segment: Segment, before: Tally) -> Generator[Tally, None, None]:
            start, stop = segment
            tally = before.copy()
            with measuring(route, Measuring(plan, gradients.w_bar, replay, tally, kappa, compared)) as one_step:
                replay.trajectory.restore(run.checkpoint(start))
                for record in run.steps[start:stop]:
                    one_step(record, run.batches(record))
                    yield tally
            check_end(run, replay, stop)

        folded = fold_segments("attributing", needed, through, Folded(empty), replay=replay, saver=saver)
    return folded.state, folded.drift


def choose_route(plan: Plan) -> tuple[Route, str]:
    """Choose how directional derivatives are taken, and say why.

    Hooks are chosen where every layer has a rule and, at the first, a middle and the last segment, their dot products
    are held to the step's own backward pass.
    """
    if plan.classes:
        return "jvp", "contributions of every label need the tangent of the logits"
    if plan.parts:
        return "jvp", "contributions of parts need derivatives of the single parts' losses"
    if plan.run.autocast is not None:
        return "jvp", "the run's own passes are of half precision (autocast)"
    with plan.run.replay() as replay:
        starts = [start for start, _ in plan.run.segments]
        for start in sorted({starts[0], starts[len(starts) // 2], starts[-1]}):
            reason = _why_not_here(plan, replay, plan.run.steps[start])
            if reason is not None:
                return "jvp", reason
    return "hooks", "every layer has a rule, and three steps agree with the backward pass"


def _why_not_here(plan: Plan, replay: Replay, record: StepRecord) -> str | None:
    trajectory = replay.trajectory
    trajectory.restore(plan.run.checkpoint(record.step))
    trajectory.arrange(record)
    reason = why_not_hooks(trajectory.model)
    if reason is not None:
        return reason
    present = np.array([float(history.moves[record.step] is not None) for history in plan.histories])
    generator = torch.Generator().manual_seed(record.step)
    random = torch.randn(1, plan.weights.size, generator=generator, dtype=plan.like.dtype).to(plan.run.device)
    direction = scaled(random, present, plan.spans())
    kappa = np.broadcast_to(present[:, None], (len(present), len(plan.run.steps)))
    what = Measuring(plan, direction, replay, Tally(plan, 1), kappa, Comparisons.fresh())
    dots = layer_dots(plan, replay, direction)
    try:
        hooks = ByHooks(what, dots, record, CouplingWatch())
        replay.advance(record, plan.run.batches(record), hooks=hooks)
        hooks.hold()
    except HydragradError:
        raise
    except NotHeld:
        return "the layers are used in a way that the rules do not know (shared tensors, coupled samples)"
    except FAST_PATH_ERRORS as error:
        return str(error)
    finally:
        dots.remove()
    return None
