"""`attribute`: contributions of training samples to queries, from a recorded run."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hydragrad.attribution.advice import advice_notes
from hydragrad.attribution.gradients import QueryGradients, gradients_in_chunks, gradients_of_some
from hydragrad.attribution.part_sums import require_room_for_first
from hydragrad.attribution.plan import Plan, make_plan
from hydragrad.attribution.replays import over_replays
from hydragrad.attribution.routes import ROUTES, Comparisons, Route
from hydragrad.attribution.segments import choose_route, sum_segments
from hydragrad.attribution.sweep import require_curvature, sweep
from hydragrad.attribution.tally import Tally
from hydragrad.derivatives import running_statistics
from hydragrad.derivatives.held import Held
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS
from hydragrad.derivatives.trusted import reason as reason_of
from hydragrad.errors import HydragradError, QueryError, Unsupported
from hydragrad.replay import Recording
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
    workers: int = 1,
    route: RouteOption = "auto",
    memory: int = MEMORY,
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
            as in [4, 5]: a replay's number decides what it leaves out, and 4 means 0 to 3.
        drop: Share of the samples that a replay leaves out.
        removal: What leaving a sample out means: its loss has weight 0 and the others keep theirs ("weight"), or the
            mean of its batch is taken over the rest ("renormalised"). Of a sum both are the same.
        workers: Processes that replay at the same time.
        labels: Also the contribution each sample would have under every label (plain cross-entropy only).
        parts: Also the contribution of every part of every sample (tokens, pixels, boxes, answers), for losses made by
            `hg.loss_of_parts`. They add up to the sample's. A part is known by its place in the sample's row of losses.
        stretches: Also what each of so many equal stretches of the run's steps added (of hg.train's runs, as many as
            epochs are the epochs). Costs no further pass.
        route: How "none" takes directional derivatives: by dot products in the replay's backward pass ("hooks"), in
            forward mode ("jvp"), or by one backward pass a sample ("samples"). "auto" takes the first that is valid.
        memory: Bytes for directions and for replayed states, each.

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

    Cost: one training step is 3 units; see the table "what it costs" in the docs.

    Source: Chen et al. 2021, eqs. 35-36, transposed.
    """
    require_recorded(run, "attribute")
    method = Method.of(curvature, damping=damping, smoothing=smoothing, replays=replays, drop=drop, removal=removal)
    if route not in ("auto", *ROUTES):
        raise QueryError(f"route must be one of auto, {', '.join(ROUTES)}, got {route!r}.")
    queries = queries_of(query)
    sample_ids = checked_samples(samples, run.manifest.data["length"])
    plan = make_plan(run, method, sample_ids=sample_ids, labels=labels, stretches=stretches, parts=parts)
    if curvature != "none":
        require_curvature(plan)
    if parts:
        require_room_for_first(plan, sum(len(query.names()) for query in queries))
    attributing = _Attributing(plan, queries, route, memory, workers)
    chunks = [attributing.sums(gradients) for gradients in gradients_in_chunks(plan, queries, memory)]
    return Scores(
        values=-torch.cat([chunk.tally.values for chunk in chunks]),
        sample_ids=sample_ids,
        query_names=numbered([name for chunk in chunks for name in chunk.names]),
        query_values=torch.tensor([value for chunk in chunks for value in chunk.values], dtype=torch.float64),
        label_contributions=-torch.cat([chunk.tally.labels for chunk in chunks]) if labels else None,
        part_contributions=-torch.cat([chunk.tally.parts for chunk in chunks]) if parts else None,
        over_time=-torch.cat([chunk.tally.over_time for chunk in chunks]).float() if stretches else None,
        evidence=_evidence(run, method, chunks, attributing.comparisons),
        queries=tuple(queries),
    )


class _Chunk(NamedTuple):
    """Some of the queries' scalars, their sums, the largest drift, and how derivatives were taken and compared."""

    names: tuple[str, ...]
    values: tuple[float, ...]
    tally: Tally
    drift: float
    route: str
    queries: Held


class _Attributing:
    """Sums the derivatives of one chunk of the queries' scalars after the other, by the route of the plan."""

    def __init__(self, plan: Plan, queries: Sequence[Query], route: RouteOption, memory: int, workers: int) -> None:
        self._plan, self._queries, self._memory, self._workers = plan, queries, memory, workers
        self._fixed = route != "auto"
        self._route: Route | Literal["sweep"] = _route_of(plan, route)
        self._done = 0
        self.comparisons = Comparisons.fresh()

    def sums(self, gradients: QueryGradients) -> _Chunk:
        """The sums of the next chunk."""
        numbers = range(self._done, self._done + len(gradients.names))
        self._done = numbers.stop
        tally, drift = self._summed(gradients, numbers)
        return _Chunk(gradients.names, gradients.values, tally, drift, self._route, gradients.held)

    def _summed(self, gradients: QueryGradients, numbers: range) -> tuple[Tally, float]:
        plan = self._plan
        if plan.method.replays:
            differentiate = partial(gradients_of_some, queries=self._queries, numbers=numbers)
            return over_replays(plan, gradients, differentiate, memory=self._memory, workers=self._workers)
        if self._route == "sweep":
            return sweep(plan, gradients, memory=self._memory, comparisons=self.comparisons)
        while True:
            try:
                return sum_segments(plan, gradients, self._route, plan.run.segments, self.comparisons)
            except HydragradError:
                raise
            except FAST_PATH_ERRORS as error:
                self._take_next_route(error)

    def _take_next_route(self, error: Exception) -> None:
        """Take the next safer route.

        Raises:
            Unsupported: There is none, or the caller chose the route.
        """
        assert self._route != "sweep"
        reason, safer = reason_of(error), ROUTES.index(self._route) + 1
        if self._fixed:
            raise Unsupported(f"route={self._route!r} is not valid here: {reason}. Use route='auto'.") from error
        if safer == len(ROUTES) or self._plan.classes:
            raise Unsupported(
                f"No way to the derivatives of single samples' losses agrees with the gradient that trained: {reason}. "
                f"Write model and loss so that a step's gradient is the sum of its samples' gradients, without hooks "
                f"or operations that torch can't differentiate."
                + (" Or leave labels=True out." if self._plan.classes else "")
            ) from error
        self._route, self.comparisons = ROUTES[safer], Comparisons.fresh()


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


def _evidence(run: Recording, method: Method, chunks: Sequence[_Chunk], comparisons: Comparisons) -> Evidence:
    return Evidence(
        method=method,
        route=chunks[0].route,
        steps=len(run.steps),
        completed=run.completed,
        replay_exact=run.same_machine,
        replay_drift=max(chunk.drift for chunk in chunks),
        notes=tuple(_notes(run, method)),
        compared=tuple(_compared(chunks, comparisons)),
    )


def _compared(chunks: Sequence[_Chunk], comparisons: Comparisons) -> Iterator[Compared]:
    queries = Held(sum(chunk.queries.times for chunk in chunks), max(chunk.queries.gap for chunk in chunks))
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


def _notes(run: Recording, method: Method) -> Iterator[Note]:
    if method.replays:
        yield Note(
            "replays",
            f"Averaged over {len(method.replays)} replays that each left out their own random {100 * method.drop:g} %.",
        )
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
