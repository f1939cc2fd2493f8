"""Attribution without curvature: a sum over steps, taken segment by segment in any order.

d phi / d alpha_i = sum over the steps that sampled i of kappa_t <grad phi, gradient of loss i> / B_t, with the
scalar coefficients kappa_t of `steps.coefficients`. Every segment is replayed from its checkpoint and adds its
terms; nothing flows from one segment to another, so that segments may be replayed anywhere.
"""

from collections.abc import Generator, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from hydragrad.attribution.blocks import Block, BlockSums, blocks_of
from hydragrad.attribution.gradients import QueryGradients
from hydragrad.attribution.partial import Partial, PartialFold
from hydragrad.attribution.plan import Plan
from hydragrad.attribution.routes import ByHooks, Comparisons, Measuring, Route, layer_dots, scaled
from hydragrad.attribution.summed import Summed
from hydragrad.attribution.tally import Tally
from hydragrad.derivatives import why_not_hooks
from hydragrad.derivatives.coupling import CouplingWatch
from hydragrad.derivatives.held import NotHeld
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS
from hydragrad.errors import HydragradError
from hydragrad.execution import HERE, Execution
from hydragrad.progress import bar
from hydragrad.replay import Replay
from hydragrad.replay.resumable import Folded, Segment, fold_segments
from hydragrad.runs import StepRecord
from hydragrad.runs.kept import Kept
from hydragrad.runs.kept_jobs import kept_jobs


def sum_segments(
    plan: Plan,
    gradients: QueryGradients,
    route: Route,
    segments: Sequence[Segment],
    comparisons: Comparisons | None = None,
    execution: Execution = HERE,
) -> Summed:
    """Replay segments in the given order and sum their terms.

    Args:
        plan: Which run and method.
        gradients: Of the queries at the final model.
        route: How derivatives are taken.
        segments: In the order in which they are taken.
        comparisons: Count what is compared.
        execution: Where they are replayed.

    Raises:
        HooksInapplicable, RuntimeError, NotImplementedError: The route is not for this model.
        Unfinished: A slice of the segments, and results of others are missing.
    """
    run, empty = plan.run, Tally(plan, len(gradients.names))
    needed = [(a, b) for a, b in segments if any(empty.wants(record.indices) for record in run.steps[a:b])]
    blocks = blocks_of(needed)
    partial = Partial(plan, gradients, f"none-{route}")
    saver = PartialFold(partial, Tally.sums, empty.of)
    compared, work = comparisons or Comparisons.fresh(), BlockSums(plan, gradients, route)
    files = [partial.of_job(list(block.segments)) for block in blocks]
    if execution != HERE or any(file.path.exists() for file in files):
        return _sum_blocks(work, blocks, files, saver.load() or Folded(empty), compared, execution, saver)
    by_start = {block.span[0]: block for block in blocks}
    with run.replay() as replay:

        def through(span: Segment, before: Tally) -> Generator[Tally, None, None]:
            block = by_start[span[0]]
            with closing(work.steps(block, replay, compared)) as tallies:
                tally = next(tallies)
                for _ in tallies:
                    yield before
            yield work.added(block, before, tally)

        spans = [block.span for block in blocks]
        folded = fold_segments("attributing", spans, through, Folded(empty), replay=replay, saver=saver)
    return Summed(folded.state, folded.drift, run.exact)


def _sum_blocks(
    work: BlockSums,
    blocks: Sequence[Block],
    files: Sequence[Kept],
    before: Folded[Tally],
    compared: Comparisons,
    execution: Execution,
    saver: PartialFold[Tally],
) -> Summed:
    """Sum blocks as jobs whose results are saved one by one; what an interrupted fold has summed is taken over."""
    total, drift, exact = before.state.copy(), before.drift, work.run.exact
    waiting = [number for number, block in enumerate(blocks) if block.span[0] not in before.done]
    results: dict[int, dict[str, Tensor]] = {}
    steps = sum(stop - start for start, stop in (block.span for block in blocks))
    left = sum(stop - start for start, stop in (blocks[number].span for number in waiting))
    following = 0
    with bar("attributing", steps, steps - left) as progress:
        jobs, kept = [blocks[number] for number in waiting], [files[number] for number in waiting]
        for place, sums in kept_jobs(work, jobs, kept, execution, "blocks of segments"):
            results[place] = sums
            start, stop = jobs[place].span
            progress.advance(stop - start)
            while following in results:  # in the order of the run, so that sums round alike
                part = results.pop(following)
                total.add_sums(part["columns"], part)
                compared.take_in(part["compared"])
                drift, exact = max(drift, part["drift"].item()), exact and bool(part["exact"])
                following += 1
    if execution.part is None:
        saver.remove()
        for file in files:
            file.remove()
    return Summed(total, drift, exact)


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
