"""Per-sample gradients with the batch's statistics as constants, by one forward and backward pass of our own.

BatchNorm in training mode gives a sample no gradient of its own: its loss reaches every sample of the batch through
mean and variance, and the exact gradients cost a backward pass each. With the statistics held constant,
samples are not coupled, and one pass that gathers every layer's input and the gradient at its output has the gradients
of all. The step's own backward pass cannot be used for that: it runs through the statistics.

The pass needs no gradients of parameters, so it costs two thirds of a training step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hydragrad.derivatives.coupling import CouplingWatch
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import Batch, LossModule, PerSampleLoss
from hydragrad.derivatives.per_sample.by_layers import LayerGradients
from hydragrad.derivatives.per_sample.one_by_one import sample_gradients
from hydragrad.derivatives.per_sample.projection import Projector
from hydragrad.derivatives.torch_gaps.batch_norm import use_frozen_statistics
from hydragrad.derivatives.trusted import compare_with_safe

COMPARED_SAMPLES = 4
"""Samples that are differentiated both ways at the first batch."""


class FrozenGradients:
    """Gradients of single losses of a batch, statistics of the batch held constant.

    Layers without a rule, or that couple samples otherwise, are detected at the first batch, at those with other
    operations than before or some that may couple samples, and at random ones: some samples are compared with one
    backward pass a sample. Where these differ, all gradients are made by one backward pass a sample.

    Args:
        model: Is copied.
        loss: Per-sample loss.
        layout: The parameters to differentiate by.
        projector: Projects the gradients.

    Attributes:
        by_layers: Whether one pass gives all gradients; None before the first batch.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss, layout: Layout, projector: Projector | None) -> None:
        self._layout, self._projector = layout, projector
        self._problem = LossModule(model, loss, use_frozen_statistics)
        self._layers: LayerGradients | None = None
        self.by_layers: bool | None = None
        self._coupling, self._passes = CouplingWatch(), 0

    def __call__(self, model: nn.Module, batch: Batch, positions: Sequence[int]) -> Tensor:
        """Differentiate.

        Args:
            model: Its parameters, buffers and modes are taken as they are, and left so.
            batch: The batch.
            positions: Which of its samples.

        Returns:
            (positions, columns).
        """
        self._problem.take_modes(model)
        for copied, parameter in zip(self._problem.model.parameters(), model.parameters(), strict=True):
            copied.requires_grad_(parameter.requires_grad)
        parameters = {name: value.detach() for name, value in model.named_parameters()}
        buffers = {name: value.detach() for name, value in model.named_buffers()}
        if self.by_layers is None:
            self.by_layers = self._agrees(parameters, buffers, batch, positions[:COMPARED_SAMPLES])
        if self.by_layers:
            rows, wanted = self._pass(parameters, buffers, batch, positions)
            if not wanted or self._agrees(parameters, buffers, batch, positions[:COMPARED_SAMPLES]):
                return rows
            self.by_layers = False
        return self._singly(parameters, buffers, batch, positions)

    def _pass(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch, positions: Sequence[int]
    ) -> tuple[Tensor, bool]:
        """The gradients, and whether they are to be compared."""
        if self._layers is None:
            self._layers = LayerGradients(self._problem.model, self._layout, self._projector, anchored=True)
        self._layers.begin(batch.size)
        with torch.enable_grad():
            losses, _ = self._problem.at(parameters, buffers, batch)
            self._passes += 1
            wanted = self._coupling.wants(self._passes, losses)
            losses.sum().backward()
        return self._layers.rows(positions), wanted

    def _singly(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch, positions: Sequence[int]
    ) -> Tensor:
        _, rows = sample_gradients(
            self._problem,
            self._layout,
            parameters,
            buffers,
            batch,
            positions,
            projector=self._projector,
            frozen=[name for name, value in self._problem.model.named_parameters() if not value.requires_grad],
        )
        return rows

    def _agrees(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch, positions: Sequence[int]
    ) -> bool:
        singly = self._singly(parameters, buffers, batch, positions)
        comparison = compare_with_safe(lambda: [self._pass(parameters, buffers, batch, positions)[0]], [singly])
        if not comparison.trusted and self._layers is not None:
            self._layers.remove()
        return comparison.trusted
