"""How the directional derivatives of a replayed step are taken, from the fastest route to the safest.

hooks      dot products in the replay's own backward pass; needs rules of layers, and samples that are not coupled
jvp        forward mode; any model whose operations have forward rules that agree with training's backward pass
samples    one backward pass a sample; any model

Each is held to the gradient that trained, at every step; `hooks` also to a backward pass with random weights, where
samples may be coupled. A route that departs is not taken.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.attribution.full_precision import GAP, FullPrecision
from hydragrad.attribution.part_probe import PartProbe
from hydragrad.attribution.plan import Plan
from hydragrad.attribution.tally import Derived, Tally
from hydragrad.derivatives import (
    Batch,
    Directional,
    LayerDots,
    LossModule,
    SharedForward,
    by_sample,
    directional_derivatives,
    directional_one_by_one,
    terms_of,
    works_at_once,
)
from hydragrad.derivatives.coupling import CouplingWatch, random_weights, weighted_gradients
from hydragrad.derivatives.graph import Kind, kind_of_graph
from hydragrad.derivatives.held import Held, NotHeld
from hydragrad.replay import Replay
from hydragrad.replay.means import parts_in
from hydragrad.replay.trajectory import StepHooks
from hydragrad.runs import StepRecord

Route = Literal["hooks", "jvp", "samples"]
ROUTES: tuple[Route, ...] = ("hooks", "jvp", "samples")
"""From the fastest to the safest."""

OneStep = Callable[[StepRecord, Sequence[Batch]], None]


class Comparisons(NamedTuple):
    """What was compared on the way.

    Attributes:
        gradients: Derivatives of losses with the gradient that trained.
        coupling: Those of single losses with a backward pass of random weights.
        curvature: Curvature products with how the gradient changes.
        half: Sums of derivatives with the gradient that trained under autocast.
        losses: Losses without autocast with those that trained under it.
        parts: Derivatives of parts with a backward pass of random weights.
    """

    gradients: Held
    coupling: Held
    curvature: Held
    half: Held
    losses: Held
    parts: Held

    @classmethod
    def fresh(cls) -> "Comparisons":
        """Nothing was compared yet."""
        return cls(*(Held() for _ in cls._fields))

    def packed(self) -> Tensor:
        """Times and gaps, float64 (what was compared, 2)."""
        return torch.tensor([[held.times, held.gap] for held in self], dtype=torch.float64)

    def take_in(self, packed: Tensor) -> None:
        """Add what another process compared."""
        for held, (times, gap) in zip(self, packed.tolist(), strict=True):
            held.times, held.gap = held.times + int(times), max(held.gap, gap)

    def hold(
        self, record: StepRecord, terms: Tensor, trained: Tensor, in_full: Tensor | None, directions: Tensor
    ) -> None:
        """Hold directional derivatives to the gradient that trained.

        Args:
            record: The step.
            terms: With their coefficients, (Q, samples).
            trained: What its backward passes left, flat.
            in_full: The same without autocast, where the step ran under it and this is known.
            directions: (Q, parameters).

        Raises:
            NotHeld: They differ by more than rounding.
        """
        what = "Directional derivatives"
        if record.autocast is None:
            self.gradients.hold(terms, trained, directions, what)
            return
        self.half.hold(terms, trained.to(terms), directions, what, GAP)
        if in_full is not None:
            self.gradients.hold(terms, in_full, directions, what)


class Measuring(NamedTuple):
    """What a route measures: directions (queries, parameters) times kappa (histories, steps), into a tally."""

    plan: Plan
    directions: Tensor
    replay: Replay
    tally: Tally
    kappa: NDArray[np.float64]
    comparisons: Comparisons


@contextmanager
def measuring(route: Route, what: Measuring) -> Iterator[OneStep]:
    """Replay and measure steps by one route.

    Raises:
        HooksInapplicable, RuntimeError, NotImplementedError: At a step, where the route is not for this model.
    """
    if route == "hooks":
        dots = layer_dots(what.plan, what.replay, what.directions)
        try:
            yield _by_hooks(what, dots)
        finally:
            dots.remove()
        return
    problem = LossModule(what.plan.run.model, what.plan.loss)
    shares = route == "jvp" and what.plan.run.autocast is None
    shared = SharedForward(what.replay.trajectory.model, problem.model) if shares else None
    evaluate = _forward_mode(what, problem) if route == "jvp" else _one_by_one(what, problem)
    try:
        yield _by_directions(what, problem, shared, evaluate)
    finally:
        if shared is not None:
            shared.remove()


class _NotesGradient(StepHooks):
    """Notes the gradient that the backward passes of a step left, before transforms."""

    def __init__(self, plan: Plan, replay: Replay) -> None:
        self._plan, self._replay = plan, replay
        self.gradient: Tensor | None = None

    def before_transform(self) -> None:
        self._note()

    def before_update(self) -> None:
        self._note()

    def _note(self) -> None:
        if self.gradient is None:
            self.gradient = self._replay.trajectory.gradient(self._plan.weights)


class ByHooks(_NotesGradient):
    """Dot products in the backward pass of every micro-batch; it starts from coefficients, so they are inside.

    Attributes:
        totals: (histories, queries, batch) by micro-batch.
        counts: Number of parts of every sample by micro-batch, where the loss knows it.
    """

    def __init__(self, what: Measuring, dots: LayerDots, record: StepRecord, coupling: CouplingWatch) -> None:
        super().__init__(what.plan, what.replay)
        self._what, self._dots, self._record, self._coupling = what, dots, record, coupling
        self._probe: tuple[Tensor, Tensor] | None = None
        self.totals: list[Tensor] = []
        self.counts: list[Tensor | None] = []

    def before_forward(self, number: int) -> None:
        """Start a micro-batch."""
        self._dots.begin(len(self._record.micro_batches[number]), self._what.plan.like)

    def after_forward(self, number: int, losses: Tensor) -> None:
        """Differentiate the losses with random weights, where samples may be coupled."""
        self.counts.append(parts_in(losses))
        self._probe = None
        if len(losses) < 2 or not self._coupling.wants(self._record.step, losses):
            return
        plan, part = self._what.plan, self._record.micro_batches[number]
        named = dict(self._what.replay.trajectory.model.named_parameters())
        weights = random_weights(losses, self._record.step)
        with self._dots.paused():
            gradients = weighted_gradients(losses, part.weighted(weights), [named[n] for n in plan.weights.names])
        self._probe = weights, plan.weights.flatten(dict(zip(plan.weights.names, gradients, strict=True)), plan.like)

    def after_backward(self, number: int) -> None:
        """Take the dot products, and hold them to the losses with random weights."""
        totals = self._dots.totals
        if self._probe is not None:
            weights, gradient = self._probe
            self._hold(self._what.comparisons.coupling, totals * weights.to(totals), gradient)
        self.totals.append(totals)

    def hold(self) -> None:
        """Hold the dot products to the gradient of the step."""
        assert self.gradient is not None
        self._hold(self._what.comparisons.gradients, torch.cat(self.totals, -1), self.gradient)

    def _hold(self, held: Held, totals: Tensor, gradient: Tensor) -> None:
        """History by history, those that the step moved."""
        kappa = self._what.kappa[:, self._record.step]
        for factor, span, terms in zip(kappa.tolist(), self._what.plan.spans(), totals, strict=True):
            if factor:
                held.hold(terms, gradient[span], self._what.directions[:, span], "Derivatives by hooks")


def _by_hooks(what: Measuring, dots: LayerDots) -> OneStep:
    coupling = CouplingWatch()

    def one_step(record: StepRecord, batches: Sequence[Batch]) -> None:
        hooks = ByHooks(what, dots, record, coupling)
        what.replay.advance(record, batches, hooks=hooks)
        kappa = what.kappa[:, record.step]
        hooks.hold()
        factors = torch.from_numpy(kappa)
        terms = [torch.einsum("h,hqb->qb", factors, totals.double().cpu()) for totals in hooks.totals]
        what.tally.add_terms(record, terms, hooks.counts)

    return one_step


Evaluate = Callable[[Batch, dict[str, Tensor], Tensor], Directional]
"""Batch, buffers and directions to derivatives of the batch's losses."""


def _forward_mode(what: Measuring, problem: LossModule) -> Evaluate:
    at_once: bool | None = None if len(what.directions) > 1 else False

    def evaluate(batch: Batch, buffers: dict[str, Tensor], directions: Tensor) -> Directional:
        nonlocal at_once
        here = (problem, what.plan.weights, what.replay.trajectory.parameters, buffers, batch)
        if at_once is None:
            at_once = works_at_once(*here)
        return directional_derivatives(*here, directions, with_output=bool(what.plan.classes), at_once=at_once)

    return evaluate


def _one_by_one(what: Measuring, problem: LossModule) -> Evaluate:
    if what.plan.classes:
        raise NotHeld("Contributions of every label need forward mode")

    def evaluate(batch: Batch, buffers: dict[str, Tensor], directions: Tensor) -> Directional:
        trajectory = what.replay.trajectory
        frozen = [name for name, value in trajectory.model.named_parameters() if not value.requires_grad]
        here = (problem, what.plan.weights, trajectory.parameters, buffers, batch)
        return directional_one_by_one(*here, directions, frozen=frozen)

    return evaluate


class _Between(_NotesGradient):
    """Derivatives between the forward and the backward pass of every micro-batch."""

    def __init__(
        self,
        what: Measuring,
        problem: LossModule,
        shared: SharedForward | None,
        batches: Sequence[Batch],
        evaluate: Callable[[Batch, dict[str, Tensor]], Directional],
        record: StepRecord,
        full: FullPrecision | None,
        hold_parts: Callable[[Kind, tuple[dict[str, Tensor], dict[str, Tensor], Batch], Directional], None],
    ) -> None:
        super().__init__(what.plan, what.replay)
        self._parts, self._full, self._hold_parts = record.micro_batches, full, hold_parts
        self.in_full: Tensor | None = None
        self._problem, self._shared, self._batches, self._evaluate = problem, shared, batches, evaluate
        self._buffers: dict[str, Tensor] = {}
        self.along: list[Directional] = []
        self.counts: list[Tensor | None] = []

    def before_forward(self, number: int) -> None:
        if self._shared is not None:
            self._shared.begin()
        self._problem.take_modes(self._replay.trajectory.model)
        self._buffers = {name: value.clone() for name, value in self._replay.trajectory.buffers.items()}

    def after_forward(self, number: int, losses: Tensor) -> None:
        self.along.append(self._derivatives(self._batches[number], losses))
        self.counts.append(parts_in(losses))
        if self._full is not None:
            where = self._replay.trajectory.parameters, self._buffers
            gradient = self._full.gradient(self._parts[number], self._batches[number], *where)
            self.in_full = gradient if self.in_full is None else self.in_full + gradient

    def _derivatives(self, batch: Batch, losses: Tensor) -> Directional:
        if not self._plan.parts:
            return self._evaluate(batch, self._buffers)
        terms = terms_of(losses)
        batch = terms.batch(batch)
        along = self._evaluate(batch, self._buffers)
        where = self._replay.trajectory.parameters, self._buffers, batch
        self._hold_parts(kind_of_graph(losses), where, along)
        return by_sample(along, terms)


def _by_directions(what: Measuring, problem: LossModule, shared: SharedForward | None, evaluate: Evaluate) -> OneStep:
    spans = what.plan.spans()
    of_samples = LossModule(what.plan.run.model, what.plan.run.loss) if what.plan.parts else problem
    full = FullPrecision(what.plan, of_samples, what.comparisons.losses)
    probe = PartProbe(problem, what.plan.weights, what.comparisons.parts)

    def one_step(record: StepRecord, batches: Sequence[Batch]) -> None:
        factors = what.kappa[:, record.step]
        if not (factors.any() and what.tally.wants(record.indices)):
            if shared is not None:
                shared.begin()
            what.replay.advance(record, batches)
            return
        directions = scaled(what.directions, factors, spans)
        hooks = _Between(
            what,
            problem,
            shared,
            batches,
            lambda batch, buffers: evaluate(batch, buffers, directions),
            record,
            full if full.wants(record) else None,
            lambda kind, where, along: probe.hold(record.step, kind, where, along, directions),
        )
        every = what.replay.advance(record, batches, hooks=hooks)
        assert hooks.gradient is not None
        parts = list(zip(record.micro_batches, batches, hooks.along, every, strict=True))
        terms = torch.cat([part.weighted(along.losses_dot) for part, _, along, _ in parts], -1)
        what.comparisons.hold(record, terms, hooks.gradient, hooks.in_full, directions)
        for part, _, along, losses in parts:
            full.note(part, along.losses, losses)
        what.tally.add_step(record, [Derived(*part, count) for part, count in zip(parts, hooks.counts, strict=True)])

    return one_step


def layer_dots(plan: Plan, replay: Replay, directions: Tensor) -> LayerDots:
    """Hooks on the replayed model that measure along flat directions (queries, parameters)."""
    number_of = {name: number for number, history in enumerate(plan.histories) for name in history.names}
    return LayerDots(replay.trajectory.model, plan.weights.views(directions), number_of)


def scaled(directions: Tensor, factors: NDArray[np.float64], spans: Sequence[slice]) -> Tensor:
    """Multiply each history's part of flat directions (queries, parameters) by its factor."""
    result = torch.empty_like(directions)
    for factor, span in zip(factors, spans, strict=True):
        result[:, span] = directions[:, span] * factor
    return result
