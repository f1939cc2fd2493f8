"""EK-FAC: the Gauss-Newton matrix as a matrix that is diagonal in a basis of Kronecker form, in two passes over data.

    g_n = J_n' xi_n, E xi_n xi_n' = H_n      drawn at the output of sample n and pulled back: E g_n g_n' is its part
    A = mean of x x', G = mean of delta delta'          first pass: inputs of a layer, gradients at its outputs
    A = Q_A diag Q_A', G = Q_G diag Q_G'                their eigenvectors span the basis
    Lambda = mean of (Q_G' g_n Q_A)^2                   second pass, of whole samples: positions are summed before

Layers without such factors, and parameters of several layers that have none, get the diagonal of the matrix, by squares
of the gradients of whole batches: the draws of its samples are independent, so cross terms are zero on average. A
parameter that several layers share is in the basis of those with factors; the second pass sees all of them.

An approximation: good for preconditioning, where what is solved is another, exact matrix.

Source: Martens and Grosse 2015 (K-FAC); George et al. 2018 (EK-FAC).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hydragrad.derivatives.curvature.eigenbasis import Block, Eigenbasis
from hydragrad.derivatives.curvature.output_draws import output_draws
from hydragrad.derivatives.directional.forward_mode import differentiable_kernels
from hydragrad.derivatives.layers.factors import factors, has_factors
from hydragrad.derivatives.layers.rules import RULES
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import Batch, LossModule
from hydragrad.derivatives.one_call import capture_output
from hydragrad.derivatives.per_sample.layer_calls import Call, LayerCalls

LARGEST_SIDE = 2048
"""A side of a weight with more numbers keeps its own basis: eigenvectors of larger matrices cost minutes."""
NUMBERS_AT_ONCE = 1 << 24
"""Of per-sample gradients of one layer."""

Calls = dict[nn.Module, list[Call]]


@dataclass
class _Layered:
    """A parameter with a basis: its layers, and what was added up about them.

    Attributes:
        spans: Of the weight, and of the bias where it belongs to this layer alone.
        layers: All layers that have the weight, and their own name of it.
        shape: Outputs and inputs, without the bias.
    """

    spans: tuple[slice, ...]
    layers: list[tuple[nn.Module, str]]
    shape: tuple[int, int]
    left: Tensor | None = None
    right: Tensor | None = None
    sums: dict[str, Tensor] = field(default_factory=dict)

    @property
    def with_bias(self) -> bool:
        return len(self.spans) == 2

    def factors(self, calls: Calls) -> Iterator[tuple[Tensor, Tensor]]:
        """Factors of every call of a layer that has them, (n, s, inputs) and (n, s, outputs)."""
        for layer, _ in self.layers:
            for x, delta in calls[layer] if has_factors(layer) else ():
                inputs, outputs = factors(layer, x, delta)
                yield (torch.cat([inputs, torch.ones_like(inputs[..., :1])], 2) if self.with_bias else inputs), outputs

    def add_moments(self, calls: Calls) -> None:
        """Second moments of inputs and of gradients at outputs; a side that is too large has none."""
        for inputs, outputs in self.factors(calls):
            for name, values in (("right", inputs), ("left", outputs)):
                if values.shape[2] <= LARGEST_SIDE:
                    flat = values.flatten(0, 1)
                    self._add(name, flat.T @ flat)

    def choose_basis(self, like: Tensor) -> None:
        """The eigenvectors of the second moments."""
        for name in ("left", "right"):
            if name in self.sums:
                setattr(self, name, torch.linalg.eigh(self.sums.pop(name)).eigenvectors.to(like))

    def add_squares(self, calls: Calls) -> None:
        """Squares of the samples' gradients in the basis."""
        pairs = [(self._turned(x, self.right), self._turned(d, self.left)) for x, d in self.factors(calls)]
        others = [
            (RULES[type(layer)].parameters[own], layer, RULES[type(layer)].rule_input(layer, x), delta)
            for layer, own in self.layers
            if not has_factors(layer)
            for x, delta in calls[layer]
        ]
        if len(pairs) == 1 and not others and pairs[0][0].shape[1] == 1:
            inputs, outputs = (part[:, 0].square() for part in pairs[0])
            self._add("squares", outputs.T @ inputs)
            return
        rows, columns = self.shape[0], self.shape[1] + self.with_bias
        count = len(pairs[0][0]) if pairs else 0
        size = max(1, NUMBERS_AT_ONCE // (rows * columns))
        for start in range(0, count, size):
            some = slice(start, start + size)
            gradients = sum(torch.einsum("nso,nsi->noi", d[some], x[some]) for x, d in pairs)
            for rule, layer, x, delta in others:
                plain = rule.gradients(layer, x[some], delta[some]).reshape(-1, *self.shape)
                gradients = gradients + self._turned(self._turned(plain, self.right).mT, self.left).mT
            self._add("squares", gradients.square().sum(0))  # type: ignore[union-attr]

    def block(self, samples: int, like: Tensor) -> Block:
        """The block of the matrix's mean over so many samples."""
        eigenvalues = self.sums.get("squares")
        if eigenvalues is None:  # its layers were never called
            eigenvalues = like.new_zeros(self.shape[0], self.shape[1] + self.with_bias)
        return Block(self.spans, (eigenvalues / samples).to(like), self.left, self.right)

    def _add(self, name: str, values: Tensor) -> None:
        self.sums[name] = self.sums[name] + values.double() if name in self.sums else values.double()

    @staticmethod
    def _turned(values: Tensor, basis: Tensor | None) -> Tensor:
        return values if basis is None else values @ basis


def fit_ekfac(
    problem: LossModule,
    layout: Layout,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    batches: Callable[[], Iterable[Batch]],
    *,
    draws: int = 1,
) -> Eigenbasis:
    """Approximate the mean over samples of the Gauss-Newton matrices of their losses.

    Args:
        problem: The private copy of model and loss, in the modes that count. Losses reach the parameters through one
            call of the model.
        layout: The parameters whose matrix it is; others count as frozen.
        parameters: Values of all parameters.
        buffers: Values of all buffers.
        batches: The samples, in batches; called twice, and makes the same ones.
        draws: Gradients that are drawn for a sample.

    Cost: two forward and two backward passes over the samples for every draw, and an eigendecomposition a layer.
    """
    fitting = _Fitting(problem, layout, parameters, buffers)
    try:
        return fitting.fit(batches, draws)
    finally:
        fitting.close()


class _Fitting:
    def __init__(
        self, problem: LossModule, layout: Layout, parameters: dict[str, Tensor], buffers: dict[str, Tensor]
    ) -> None:
        self._problem, self._layout, self._parameters, self._buffers = problem, layout, parameters, buffers
        self._like = next(iter(parameters.values()))
        self._layered = _with_factors(problem.model, layout)
        self._watch()

    def _watch(self) -> None:
        layers = dict.fromkeys(layer for part in self._layered for layer, _ in part.layers)
        covered = {(span.start, span.stop) for part in self._layered for span in part.spans}
        self._others = [name for name, span in self._layout.spans.items() if (span.start, span.stop) not in covered]
        self._calls = LayerCalls(layers, self._like.new_zeros((), requires_grad=True))

    def fit(self, batches: Callable[[], Iterable[Batch]], draws: int) -> Eigenbasis:
        self._leave_out_what_does_not_split(next(iter(batches())))
        samples, squares = 0, dict[str, Tensor]()
        generator = torch.Generator().manual_seed(0)
        for batch in batches():
            samples += batch.size
            for calls, gradients in self._passes(batch, draws, generator):
                for part in self._layered:
                    part.add_moments(calls)
                for name, gradient in gradients.items():
                    squares[name] = squares.get(name, 0) + gradient.double().square()
        for part in self._layered:
            part.choose_basis(self._like)
        generator.manual_seed(0)
        for batch in batches() if self._layered else ():
            for calls, _ in self._passes(batch, draws, generator):
                for part in self._layered:
                    part.add_squares(calls)
        count = samples * draws
        diagonals = [
            Block((self._layout.spans[name],), (square.flatten()[None] / count).to(self._like))
            for name, square in squares.items()
        ]
        return Eigenbasis((*(part.block(count, self._like) for part in self._layered), *diagonals))

    def close(self) -> None:
        self._calls.remove()

    def _passes(
        self, batch: Batch, draws: int, generator: torch.Generator
    ) -> Iterator[tuple[Calls, dict[str, Tensor]]]:
        """What layers saw of one draw after the other, and gradients of the other parameters."""
        for _ in range(draws):
            leaves = {name: self._parameters[name].detach().requires_grad_() for name in self._others}
            with torch.enable_grad(), differentiable_kernels():
                self._calls.begin(batch.size)
                with capture_output(self._problem, required=True) as captured:
                    self._problem.at(self._parameters | leaves, self._buffers, batch)
                output = captured.tensor
                if not output.requires_grad:  # none of the parameters is in it
                    yield self._calls.take(), {}
                    continue
                xi = output_draws(self._problem, batch, output.detach(), generator)
                starts = [*leaves.values(), *([self._calls.anchor] if self._calls.anchor is not None else [])]
                gradients = torch.autograd.grad(output, starts, xi, allow_unused=True)
            with torch.no_grad():
                named = zip(leaves, gradients, strict=False)
                yield self._calls.take(), {name: value for name, value in named if value is not None}

    def _leave_out_what_does_not_split(self, batch: Batch) -> None:
        """Take away layers that do not see one row a sample; the diagonal does for their parameters."""
        for _ in self._passes(batch, 1, torch.Generator()):
            problems = self._calls.problems
        if problems:
            self._calls.remove()
            self._layered = [part for part in self._layered if not any(layer in problems for layer, _ in part.layers)]
            self._watch()


def _with_factors(model: nn.Module, layout: Layout) -> list[_Layered]:
    """The weights of layers with factors, all of whose layers have rules."""
    users: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in dict.fromkeys(model.modules()):
        for own, value in module._parameters.items():
            if value is not None:
                users[id(value)].append((module, own))
    parts = []
    for name, value in model.named_parameters():
        layers = users[id(value)]
        layer = next((layer for layer, own in layers if own == "weight" and has_factors(layer)), None)
        if name not in layout.spans or layer is None or not all(_ruled(*user) for user in layers):
            continue
        bias = _own_bias(layer, users, model, layout) if len(layers) == 1 else None
        spans = (layout.spans[name], *([] if bias is None else [layout.spans[bias]]))
        parts.append(_Layered(spans, layers, (value.shape[0], value[0].numel())))
    return parts


def _ruled(layer: nn.Module, own: str) -> bool:
    rule = RULES.get(type(layer))
    return rule is not None and own in rule.parameters and rule.applies(layer)


def _own_bias(layer: Any, users: Mapping[int, Sequence[Any]], model: nn.Module, layout: Layout) -> str | None:
    """The name of a layer's bias, where it is trained and no other layer has it."""
    if layer.bias is None or len(users[id(layer.bias)]) > 1:
        return None
    name = next(name for name, value in model.named_parameters() if value is layer.bias)
    return name if name in layout.spans else None
