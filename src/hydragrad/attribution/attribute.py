"""`attribute`: contributions of training samples to queries, from a recorded run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from hydragrad.attribution.advice import advice_notes
from hydragrad.attribution.chunks import Chunk, chunk_file, scalars_at_once, sweep_chunks
from hydragrad.attribution.gradients import QueryGradients, gradients_in_chunks, gradients_of_some
from hydragrad.attribution.part_sums import require_room_for_first
from hydragrad.attribution.plan import Plan, make_plan
from hydragrad.attribution.replays import over_replays
from hydragrad.attribution.robust_mean import EXPLODED
from hydragrad.attribution.routes import ROUTES, Comparisons, Route
from hydragrad.attribution.segments import choose_route, sum_segments
from hydragrad.attribution.summed import Summed, unpacked
from hydragrad.attribution.sweep import require_curvature, sweep
from hydragrad.attribution.tally import Tally
from hydragrad.derivatives import running_statistics
from hydragrad.derivatives.held import Held
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS
from hydragrad.derivatives.trusted import reason as reason_of
from hydragrad.errors import HydragradError, QueryError, Unfinished, Unsupported
from hydragrad.execution import HERE, Execution, ExecutorOption, PartOption, execution_of
from hydragrad.replay import Recording
from hydragrad.runs.kept import Kept
from hydragrad.scores import (
    Compared,
    Curvature,
    Evidence,
    Method,
    Note,
    Query,
    Removal,
    Scores,
    checked_samples,
    numbered,
    queries_of,
)
from hydragrad.scores.notes import (
    CURVATURE_DROPPED,
    RENORMALISED,
    STATISTICS_CONSTANT,
    about_average,
    interrupted,
    of_exploded,
    under_autocast,
)
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import require_recorded

MEMORY = 1 << 30
"""Bytes that the flat directions of one pass, and the replayed states of a sweep, may each take."""


RouteOption = Literal["auto", "hooks", "jvp", "samples"]


@in_clean_surroundings
def attribute(
    run: Recording,
    query: Query | Sequence[Query],
    *,
    curvature: Curvature = "none",
    damping: float = 0.0,
    smoothing: float | None = None,
    samples: Sequence[int] | Tensor | None = None,
    labels: bool = False,
    parts: bool = False,
    stretches: int = 0,
    replays: int | Sequence[int] = 0,
    drop: float = 0.1,
    removal: Removal = "weight",
    executor: ExecutorOption = None,
    workers: int | None = None,
    part: PartOption = None,
    route: RouteOption = "auto",
    memory: int = MEMORY,
    queries_at_once: int | None = None,
) -> Scores:
    """Attribute the final model's behaviour to single training samples.

    A contribution is -d(query)/d(weight of the sample's loss): positive helps (lowers a loss), in the query's
    unit, to first order what the query would rise by if the sample's weight had been 0.

    Args:
        run: The recorded run; `run.averaged(name)` of one that kept an average of its weights (EMA, SWA) next to the
            model asks about that in place of the final model.
        query: A scalar of the final model, or several in the same pass.
        curvature: "none" drops the curvature of the loss (HYDRA): one replay, ranking without a scale to trust.
            "hessian" is the exact derivative of the run, for runs that are smooth. "ggn" takes the Gauss-Newton
            matrix for the Hessian: it does not blow up on runs with kinks (ReLU, max-pooling).
        damping: Added to the curvature, times the identity.
        smoothing: For optimizers that divide by the root of a second moment (Adam and most others): what is added under
            it in the derivative, as a share of the mean second moment of the step. 0 is the exact derivative, which
            holds for tiny changes only; 0.01, the default there, predicted removals best.
        samples: Training samples to score; all if None.
        replays: Average over so many replays that each leave out their own random share of the samples, in place of
            the run itself: for runs with kinks. Takes that many trainings and sweeps. Or the numbers of the replays,
            as in [4, 5]: a replay's number decides what it leaves out, and 4 means 0 to 3. A replay whose contributions
            to a query exploded (ten times those of the median replay) is not in that query's mean; a note says so.
        drop: Share of the samples that a replay leaves out.
        removal: What leaving a sample out means: its loss has weight 0 and the others keep theirs ("weight"), or the
            mean of its batch is taken over the rest ("renormalised"). Of a sum both are the same.
        executor: Where the independent parts of the work run, as `hg.counterfactual` takes it: the replays; without
            curvature (SGD, ASGD) the segments of the run; else chunks of the queries. The numbers are the same.
        workers: Processes that work at the same time; of other executors, jobs that wait or run.
        part: As "3/16": do this slice of these parts, then those that are missing and that no other process works on.
        labels: Also the contribution each sample would have under every label (plain cross-entropy only).
        parts: Also the contribution of every part of every sample (tokens, pixels, boxes, answers), for losses made by
            `hg.loss_of_parts`. They add up to the sample's. A part is known by its place in the sample's row of losses.
        stretches: Also what each of so many equal stretches of the run's steps added (of hg.train's runs, as many as
            epochs are the epochs). Costs no further pass.
        route: How "none" takes directional derivatives: by dot products in the replay's backward pass ("hooks"), in
            forward mode ("jvp"), or by one backward pass a sample ("samples"). "auto" takes the first that is valid.
        memory: Bytes for directions and for replayed states, each.
        queries_at_once: Scalars that share a pass; as many as fit into `memory` if None. Fewer give an executor more
            jobs, and take more passes.

    Returns:
        Scores with one row a query scalar. Called again after an interruption it resumes where it stopped.

    Raises:
        QueryError: Ids that do not exist, a query that does not depend on the parameters, or options that do not fit
            together.
        LossError: "ggn" or labels with a loss that does not call the model once; labels without cross-entropy; parts
            without a loss of parts, or of samples whose parts change from visit to visit.
        NotEnoughMemory: The contributions of parts would not fit.
        Unsupported: "renormalised", and a loss that is neither a mean nor a sum; "hessian" or "ggn" with buffers that
            update themselves and are not BatchNorm's, or where the gradient is stopped (detach(), torch.no_grad) on
            its way.
        ReplayMismatch: The run can't be repeated.
        NonFinite: Fewer than half of the replays have finite contributions.
        Unfinished: `part`, and results of other slices are missing.

    Cost: one training step is 3 units; see the table "what it costs" in the docs.

    Source: Chen et al. 2021, eqs. 35-36, transposed.
    """
    require_recorded(run, "attribute")
    execution = execution_of(executor, workers, part)
    method = Method.of(curvature, damping=damping, smoothing=smoothing, replays=replays, drop=drop, removal=removal)
    if route not in ("auto", *ROUTES):
        raise QueryError(f"route must be one of auto, {', '.join(ROUTES)}, got {route!r}.")
    if queries_at_once is not None and queries_at_once < 1:
        raise QueryError(f"queries_at_once must be at least 1, got {queries_at_once}.")
    queries = queries_of(query)
    sample_ids = checked_samples(samples, run.manifest.data["length"])
    plan = make_plan(run, method, sample_ids=sample_ids, labels=labels, stretches=stretches, parts=parts)
    if curvature != "none":
        require_curvature(plan)
    if parts:
        require_room_for_first(plan, sum(len(query.names()) for query in queries))
    size = scalars_at_once(plan, memory) if queries_at_once is None else queries_at_once
    attributing = _Attributing(plan, queries, route, memory, execution)
    chunks = attributing.chunks(size)
    return Scores(
        values=-torch.cat([summed.tally.values for _, summed in chunks]),
        sample_ids=sample_ids,
        query_names=numbered([name for chunk, _ in chunks for name in chunk.names]),
        query_values=torch.tensor([value for chunk, _ in chunks for value in chunk.values], dtype=torch.float64),
        label_contributions=-torch.cat([summed.tally.labels for _, summed in chunks]) if labels else None,
        part_contributions=-torch.cat([summed.tally.parts for _, summed in chunks]) if parts else None,
        over_time=-torch.cat([summed.tally.over_time for _, summed in chunks]).float() if stretches else None,
        evidence=_evidence(run, method, chunks, attributing),
        queries=tuple(queries),
    )


Chunks = Sequence[tuple[Chunk, Summed]]


class _Attributing:
    """Sums the derivatives of the queries' scalars, chunk by chunk, by the route of the plan."""

    def __init__(
        self, plan: Plan, queries: Sequence[Query], route: RouteOption, memory: int, execution: Execution
    ) -> None:
        self._plan, self._queries, self._memory, self._execution = plan, queries, memory, execution
        self._fixed = route != "auto"
        self.route: Route | Literal["sweep"] = _route_of(plan, route)
        self.comparisons = Comparisons.fresh()
        self.exploded: Counter[int] = Counter()

    def chunks(self, size: int) -> Chunks:
        """The sums of all chunks of so many scalars.

        Raises:
            Unfinished: A slice, after its share of every chunk.
        """
        plan, elsewhere = self._plan, self._execution != HERE
        if self.route == "sweep" and not plan.method.replays and elsewhere:
            return sweep_chunks(
                plan,
                self._queries,
                size,
                memory=self._memory,
                comparisons=self.comparisons,
                execution=self._execution,
            )
        chunks, missing = list[tuple[Chunk, Summed]](), list[Unfinished]()
        start, finished = 0, list[Kept]()
        for gradients in gradients_in_chunks(plan, self._queries, size):
            chunk = Chunk.of(gradients, start)
            start = chunk.numbers.stop
            try:
                chunks.append((chunk, self._summed(gradients, chunk.numbers, finished)))
            except Unfinished as error:
                missing.append(error)
        if missing:
            raise missing[-1]
        for file in finished:
            file.remove()
        return chunks

    def _summed(self, gradients: QueryGradients, numbers: range, finished: list[Kept]) -> Summed:
        """The sums of a chunk; a file of an executor's call that has them is entered in `finished`."""
        plan = self._plan
        if plan.method.replays:
            differentiate = partial(gradients_of_some, queries=self._queries, numbers=numbers)
            over = over_replays(plan, gradients, differentiate, memory=self._memory, execution=self._execution)
            self.exploded.update(over.exploded)
            return over.summed
        if self.route == "sweep":
            tally = Tally(plan, len(numbers))
            finished.append(chunk_file(plan, gradients))
            saved = finished[-1].read_as(lambda tensors, _: unpacked(tensors, tally))
            return saved or sweep(plan, gradients, memory=self._memory, comparisons=self.comparisons)
        while True:
            try:
                return sum_segments(plan, gradients, self.route, plan.run.segments, self.comparisons, self._execution)
            except HydragradError:
                raise
            except FAST_PATH_ERRORS as error:
                self._take_next_route(error)

    def _take_next_route(self, error: Exception) -> None:
        """Take the next safer route.

        Raises:
            Unsupported: There is none, or the caller chose the route.
        """
        assert self.route != "sweep"
        reason, safer = reason_of(error), ROUTES.index(self.route) + 1
        if self._fixed:
            raise Unsupported(f"route={self.route!r} is not valid here: {reason}. Use route='auto'.") from error
        if safer == len(ROUTES) or self._plan.classes:
            raise Unsupported(
                f"No way to the derivatives of single samples' losses agrees with the gradient that trained: {reason}. "
                f"Write model and loss so that a step's gradient is the sum of its samples' gradients, without hooks "
                f"or operations that torch can't differentiate."
                + (" Or leave labels=True out." if self._plan.classes else "")
            ) from error
        self.route, self.comparisons = ROUTES[safer], Comparisons.fresh()


def _route_of(plan: Plan, route: RouteOption) -> Route | Literal["sweep"]:
    """How derivatives are summed; `route` is what the caller chose.

    Raises:
        QueryError: A route where there is only one.
        Unsupported: Hooks where they are not valid.
    """
    if plan.method.curvature != "none":
        return "sweep"
    if plan.run.loss_weights is not None:
        return "sweep"  # a sample of weight 0 has a derivative by its weight that the trained gradient does not show
    if not plan.has_closed_form:
        if route == "auto":
            return "sweep"
        raise QueryError(
            f"route= chooses how a run with a closed form is summed without curvature, and a run of "
            f"{' and '.join(rule.torch_class.__name__ for rule in plan.run.rules)} has none. Leave it out."
        )
    if route in ("jvp", "samples"):
        return route
    valid, reason = choose_route(plan)
    if route == "hooks" and valid != "hooks":
        raise Unsupported(f"route='hooks' is not valid here: {reason}. Use route='jvp' or 'auto'.")
    return valid


def _evidence(run: Recording, method: Method, chunks: Chunks, attributing: _Attributing) -> Evidence:
    return Evidence(
        method=method,
        route=attributing.route,
        steps=len(run.steps),
        completed=run.completed,
        run=run.digest,
        replay_exact=all(summed.exact for _, summed in chunks),
        replay_drift=max(summed.drift for _, summed in chunks),
        notes=tuple(_notes(run, method, attributing.exploded, sum(len(chunk.names) for chunk, _ in chunks))),
        compared=tuple(_compared(chunks, attributing.comparisons)),
    )


def _compared(chunks: Chunks, comparisons: Comparisons) -> Iterator[Compared]:
    queries = Held(sum(chunk.queries.times for chunk, _ in chunks), max(chunk.queries.gap for chunk, _ in chunks))
    for what, held in (
        ("gradients of queries with tangents", queries),
        ("derivatives of losses with the gradient that trained", comparisons.gradients),
        ("derivatives of losses with the half-precision gradient that trained", comparisons.half),
        ("losses without autocast with those that trained", comparisons.losses),
        ("derivatives of single losses with a backward pass of random weights", comparisons.coupling),
        ("derivatives of single parts with a backward pass of random weights", comparisons.parts),
        ("curvature products with how the gradient changes", comparisons.curvature),
    ):
        if held.times:
            yield Compared(what, held.times, held.gap)


def _notes(run: Recording, method: Method, exploded: Mapping[int, int], queries: int) -> Iterator[Note]:
    if method.replays:
        yield Note(
            "replays",
            f"Averaged over {len(method.replays)} replays that each left out their own random {100 * method.drop:g} %.",
        )
    if exploded:
        yield of_exploded(exploded, queries, EXPLODED)
    if method.removal == "renormalised":
        yield RENORMALISED
    if run.average is not None:
        yield about_average(run.average.name, run.average.error)
    if method.curvature == "none":
        yield CURVATURE_DROPPED
        if running_statistics(run.model):
            yield STATISTICS_CONSTANT
    yield from advice_notes(run, method)
    if run.autocast is not None:
        yield under_autocast(run.autocast)
    if not run.completed:
        yield interrupted(len(run.steps))
