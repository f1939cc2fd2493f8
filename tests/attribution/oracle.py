"""The slow ways that are obviously right: retraining, and tangents carried through every step.

Legend: w weights, b momentum buffer, r running statistics; x_dot tangent, one row a column. A column is a
sample whose loss weight is varied, under the given label or under another one.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset

from cases import HELD_OUT, SAMPLES, SEED, Case, collate, loop, reseed_for_query
from hydragrad.randomness import preserved, reseed, stream_seed
from hydragrad.steps import Move, StepPoint, Tangent, read_group, rule_of

Column = tuple[int, int | None]
Scalar = Callable[[nn.Module], Tensor]


def every_sample() -> list[Column]:
    return [(sample, None) for sample in range(SAMPLES)]


# --- (a) retraining


def retrain(case: Case, weights: Tensor) -> nn.Module:
    """Train as recorded, through torch.optim, with a weight on every sample's loss."""
    model, train_set = case.build(), case.train_set
    optimizer = case.options.optimizer(model)

    def one_step(step: int, indices: list[int]) -> float:
        reseed(stream_seed(SEED, step))
        optimizer.zero_grad()
        losses = case.loss(model, collate(train_set, indices))
        weighted = weights[indices] * losses
        (weighted.mean() if case.options.reduction == "mean" else weighted.sum()).backward()
        optimizer.step()
        return losses.detach().mean().item()

    with preserved():
        loop(case, model, optimizer, one_step)
    return model


def central_differences(case: Case, directions: Tensor, queries: Sequence[Scalar], h: float = 1e-5) -> Tensor:
    """d(queries)/d(weights) along every row of directions (directions, samples); (queries, directions)."""
    rows = []
    for direction in directions:
        ends = [retrain(case, torch.ones(SAMPLES).double() + sign * h * direction) for sign in (1, -1)]
        plus, minus = ([query(end).item() for query in queries] for end in ends)
        rows.append([(p - m) / (2 * h) for p, m in zip(plus, minus, strict=True)])
    return torch.tensor(rows, dtype=torch.float64).T


# --- queries, written out


def mean_loss(
    case: Case, dataset: Dataset[Any], indices: Sequence[int] = range(HELD_OUT), training: bool = False
) -> Scalar:
    """The mean loss of samples, in eval mode unless `training`; leaves the model as it was."""

    def query(model: nn.Module) -> Tensor:
        model.train(training)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with preserved():
            reseed_for_query()
            value = case.loss(model, collate(dataset, indices)).mean()
        for name, buffer in model.named_buffers():
            buffer.data.copy_(buffers[name])
        return value

    return query


# --- (b), (c) tangents carried through every step


@dataclass
class Tangents:
    """The trained model and the tangents of its weights and running statistics, one row a column."""

    model: nn.Module
    w_dot: dict[str, Tensor]
    r_dot: dict[str, Tensor]

    def contributions(self, query: Scalar) -> Tensor:
        """-<gradient of the query, w_dot>, running statistics held constant."""
        named = {name: p.requires_grad_() for name, p in self.model.named_parameters()}
        gradients = torch.autograd.grad(query(self.model), list(named.values()), allow_unused=True)
        return -sum(
            torch.einsum("n...,...->n", self.w_dot[name], gradient)
            for name, gradient in zip(named, gradients, strict=True)
            if gradient is not None
        )

    def differences(self, query: Scalar, h: float = 1e-5, *, statistics: bool = True) -> Tensor:
        """The same by central differences, running statistics moving along unless told otherwise.

        Needs no gradient of the query, which a model that stops gradients gets wrong.
        """
        dots = self.w_dot | self.r_dot if statistics else self.w_dot
        return -torch.stack([self._difference(query, dots, column, h) for column in range(len(self))])

    def _difference(self, query: Scalar, dots: dict[str, Tensor], column: int, h: float) -> Tensor:
        values = [query(self._moved(dots, column, step)).detach() for step in (h, -h)]
        return (values[0] - values[1]) / (2 * h)

    def _moved(self, moving: dict[str, Tensor], column: int, step: float) -> nn.Module:
        model = copy.deepcopy(self.model)
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        for name, dots in moving.items():
            tensors[name].data.add_(step * dots[column])
        return model

    def __len__(self) -> int:
        return len(next(iter(self.w_dot.values())))


def tangents(case: Case, columns: Sequence[Column], *, curvature: str = "none", damping: float = 0.0) -> Tangents:
    """Carry (w_dot, b_dot, r_dot) of every column through every step of the run.

    Source: Chen et al. 2021, eqs. 35-36, the term with the Hessian kept, dropped or replaced.
    """
    model, train_set = case.build(), case.train_set
    optimizer = case.options.optimizer(model)
    named = dict(model.named_parameters())
    rule = rule_of(optimizer)
    ages = {name: rule.age(optimizer.state.get(p, {})) for name, p in named.items()}
    states = {}
    for name, p in named.items():
        every = rule.states(rule.read(read_group(rule, most_states(optimizer))))
        shapes = [p.shape, *(rule.state_shape(state, tuple(p.shape)) for state in every)]
        zero, *zeros = (p.new_zeros(len(columns), *shape) for shape in shapes)
        states[name] = Tangent(zero, tuple(zeros))
    r_dot = {name: b.new_zeros(len(columns), *b.shape) for name, b in statistics(model).items()}

    def one_step(step: int, indices: list[int]) -> float:
        batch, seed = collate(train_set, indices), stream_seed(SEED, step)
        options = {
            id(p): rule.read(read_group(rule, group)) for group in optimizer.param_groups for p in group["params"]
        }
        w_dot = {name: state.w_dot for name, state in states.items()}
        divisor = len(indices) if case.options.reduction == "mean" else 1
        here = Here(case, model, batch, indices, seed)
        moved = here.statistics_dot(w_dot, r_dot) if curvature != "none" else r_dot
        own = here.own_gradients(columns)
        bent = here.curved(w_dot, r_dot, curvature)
        optimizer.zero_grad()
        reseed(seed)
        losses = case.loss(model, batch)
        (losses.sum() / divisor).backward()
        for name, p in named.items():
            if p.grad is not None and id(p) in options:
                g_dot = own[name] / divisor + bent[name] / divisor + damping * w_dot[name]
                at, ages[name] = rule.grow(ages[name], options[id(p)])
                states[name] = advanced(optimizer, p, states[name], g_dot, Move(options[id(p)], at))
        r_dot.update(moved)
        optimizer.step()
        return losses.detach().mean().item()

    with preserved():
        loop(case, model, optimizer, one_step)
    return Tangents(model, {name: state.w_dot for name, state in states.items()}, r_dot)


def advanced(optimizer: Any, p: nn.Parameter, state: Tangent, g_dot: Tensor, move: Move) -> Tangent:
    """One parameter's tangents after the optimizer's step, which has not been made yet; no smoothing."""
    rule = rule_of(optimizer)
    names = rule.states(move.options)
    kept = optimizer.state.get(p, {})
    missing = {name: p.new_zeros(rule.state_shape(name, tuple(p.shape))) for name in names}
    point = StepPoint(p.detach(), tuple(kept.get(name, missing[name]) for name in names), p.grad.detach())
    after = rule.tangent(Tangent(state.w_dot, state.states[: len(names)]), g_dot, move, point)
    return Tangent(after.w_dot, (*after.states, *state.states[len(names) :]))


def most_states(optimizer: Any) -> dict[str, Any]:
    """The parameter group with the most states."""
    rule = rule_of(optimizer)
    return max(optimizer.param_groups, key=lambda group: len(rule.states(rule.read(read_group(rule, group)))))


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: b for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))}


@dataclass
class Here:
    """Derivatives at one step."""

    case: Case
    model: nn.Module
    batch: Any
    indices: list[int]
    seed: int

    def own_gradients(self, columns: Sequence[Column]) -> dict[str, Tensor]:
        """The gradient of each column's own loss, summed over its places in the batch."""
        (losses, outputs), leaves = self._forward(), self._leaves()
        rows = {name: leaf.new_zeros(len(columns), *leaf.shape) for name, leaf in leaves.items()}
        for place, sample in enumerate(self.indices):
            for column, (wanted, label) in enumerate(columns):
                if wanted == sample:
                    scalar = losses[place] if label is None else self._relabelled(outputs[0][place], label)
                    for name, gradient in zip(leaves, _grad(scalar, leaves.values()), strict=True):
                        rows[name][column] += gradient
        return rows

    def curved(self, w_dot: dict[str, Tensor], r_dot: dict[str, Tensor], curvature: str) -> dict[str, Tensor]:
        """The curvature of the summed loss times the tangents."""
        if curvature == "none":
            return {name: torch.zeros_like(value) for name, value in w_dot.items()}
        if curvature == "ggn":
            return self._gauss_newton(w_dot)
        return self._hessian(w_dot)

    def statistics_dot(self, w_dot: dict[str, Tensor], r_dot: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tangents of the running statistics after the forward pass, by central differences."""
        h, result = 1e-5, {name: torch.zeros_like(value) for name, value in r_dot.items()}
        for column in range(len(next(iter(w_dot.values())))) if r_dot else ():
            plus, minus = (self._statistics_after(w_dot, r_dot, column, step) for step in (h, -h))
            for name in r_dot:
                result[name][column] = (plus[name] - minus[name]) / (2 * h)
        return result

    def _statistics_after(
        self, w_dot: dict[str, Tensor], r_dot: dict[str, Tensor], column: int, step: float
    ) -> dict[str, Tensor]:
        model = copy.deepcopy(self.model)
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        with torch.no_grad():
            for name, dots in (w_dot | r_dot).items():
                tensors[name] += step * dots[column]
            reseed(self.seed)
            self.case.loss(model, self.batch)
        return statistics(model)

    def _gauss_newton(self, w_dot: dict[str, Tensor]) -> dict[str, Tensor]:
        (_, outputs), leaves = self._forward(), self._leaves()
        (output,) = outputs
        jacobian = [_grad(entry, leaves.values()) for entry in output.flatten()]
        stacked = {name: torch.stack([row[at] for row in jacobian]) for at, name in enumerate(leaves)}
        output_dot = sum(torch.einsum("k...,n...->nk", stacked[name], w_dot[name]) for name in leaves)
        hessian = torch.autograd.functional.hessian(
            lambda z: self.case.model.output_loss(z.view_as(output), self.batch).sum(),
            output.detach().flatten(),
        )
        return {name: torch.einsum("k...,kl,nl->n...", rows, hessian, output_dot) for name, rows in stacked.items()}

    def _hessian(self, w_dot: dict[str, Tensor]) -> dict[str, Tensor]:
        (losses, _), leaves = self._forward(), self._leaves()
        first = torch.autograd.grad(losses.sum(), list(leaves.values()), create_graph=True)
        count = len(next(iter(w_dot.values())))
        rows = []
        for column in range(count):
            along = sum((g * w_dot[name][column]).sum() for name, g in zip(leaves, first, strict=True))
            rows.append(_grad(along, leaves.values()))
        return {name: torch.stack([row[at] for row in rows]) for at, name in enumerate(leaves)}

    def _forward(self) -> tuple[Tensor, list[Tensor]]:
        """Losses and the model's outputs, on a graph of their own; buffers stay as they are."""
        self._own = {name: p.detach().clone().requires_grad_() for name, p in self.model.named_parameters()}
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        outputs: list[Tensor] = []

        def called(*args: Any, **kwargs: Any) -> Tensor:
            outputs.append(functional_call(self.model, self._own | buffers, args, kwargs))
            return outputs[-1]

        called.parameters = lambda: list(self._own.values())  # for losses that reach for them
        reseed(self.seed)
        return self.case.loss(called, self.batch), outputs

    def _leaves(self) -> dict[str, Tensor]:
        return self._own

    @staticmethod
    def _relabelled(output: Tensor, label: int) -> Tensor:
        return F.cross_entropy(output, torch.tensor(label))


def _grad(scalar: Tensor, leaves: Any) -> list[Tensor]:
    leaves = list(leaves)
    if not scalar.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    gradients = torch.autograd.grad(scalar, leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True)]


def relative(given: Tensor, expected: Tensor) -> float:
    """L2 distance, relative to what was expected."""
    return float((given - expected).norm() / expected.norm())
