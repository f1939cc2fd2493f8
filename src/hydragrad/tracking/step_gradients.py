"""The gradients of a step's tracked samples, while somebody else makes the step."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from hydragrad.derivatives import (
    Batch,
    BatchStatistics,
    FrozenGradients,
    HooksInapplicable,
    LayerGradients,
    Layout,
    LossModule,
    PerSampleLoss,
    Projector,
    compare_with_safe,
    normalises_batches,
    sample_gradients,
)
from hydragrad.errors import Unsupported
from hydragrad.runs.log import MicroBatch

Route = Literal["layers", "vjp", "frozen"]


class StepGradients:
    """Gradients of single samples' losses inside their batch, over the step's divisor.

    Where samples are not coupled and every layer has a rule, they are made of what the step's own forward and
    backward pass shows ("layers"); everywhere else by one backward pass a sample ("vjp"). Which, is decided at the
    first step: both are computed and compared. With frozen statistics, a BatchNorm's batch is no coupling, and one
    more forward and backward pass has the gradients of all ("frozen").

    Args:
        model: The model that is trained.
        loss: Per-sample loss.
        layout: The parameters to differentiate by.
        projector: Projects the gradients.
        batch_statistics: Whether gradients follow the statistics of a BatchNorm's batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: PerSampleLoss,
        layout: Layout,
        projector: Projector | None,
        batch_statistics: BatchStatistics = "exact",
    ) -> None:
        self._model, self._loss, self._layout, self._projector = model, loss, layout, projector
        self._frozen: FrozenGradients | None = None
        self.route: Route | None = None
        if batch_statistics == "frozen" and normalises_batches(model):
            self.route, self._frozen = "frozen", FrozenGradients(model, loss, layout, projector)
        self._layers: LayerGradients | None = None
        self._problem: LossModule | None = None
        self._expected: Tensor | None = None
        self._positions: Sequence[int] = ()

    def before(self, positions: Sequence[int], batch: Callable[[], Batch], part: MicroBatch) -> None:
        """Prepare for a step.

        Args:
            positions: Those whose gradients are wanted.
            batch: Fetches the step's data; called where a pass of our own is needed.
            part: Has the coefficients of its losses.
        """
        self._positions, self._expected = positions, None
        if self.route is None:
            self._try_layers()
        if self._frozen is not None and positions:
            self._expected = part.weighted(self._frozen(self._model, batch(), positions), positions, dim=0)
        elif self.route != "layers" and positions:
            self._expected = part.weighted(self._by_vjp(batch(), positions), positions, dim=0)
        if self._layers is not None:
            self._layers.begin(len(part))

    def after(self) -> Tensor:
        """The gradients, (positions, columns), once forward and backward have run."""
        if self.route == "layers":
            assert self._layers is not None
            try:
                return self._layers.rows(self._positions)
            except HooksInapplicable as error:
                raise Unsupported(
                    f"The model's layers were used otherwise than at the first step ({error}). Make the forward pass "
                    f"the same at every step, or build the store from a recorded run: hg.hypergradients(run)."
                ) from error
        if self._expected is None:
            width = self._layout.size if self._projector is None else self._projector.width
            return next(self._model.parameters()).new_zeros(0, width)
        return self._decide(self._expected) if self.route is None else self._expected

    def close(self) -> None:
        """Take the hooks off the model."""
        if self._layers is not None:
            self._layers.remove()
            self._layers = None

    def _try_layers(self) -> None:
        try:
            self._layers = self._layers or LayerGradients(self._model, self._layout, self._projector)
        except HooksInapplicable:
            self.route = "vjp"

    def _decide(self, expected: Tensor) -> Tensor:
        assert self._layers is not None
        layers, positions = self._layers, self._positions
        comparison = compare_with_safe(lambda: [layers.rows(positions)], [expected])
        if comparison.trusted:
            self.route = "layers"
            return comparison.values[0]
        self.route = "vjp"
        self.close()
        return expected

    def _by_vjp(self, batch: Batch, positions: Sequence[int]) -> Tensor:
        if self._problem is None:
            self._problem = LossModule(self._model, self._loss)
        for copy, original in zip(self._problem.model.modules(), self._model.modules(), strict=True):
            copy.training = original.training
        parameters = {name: value.detach() for name, value in self._model.named_parameters()}
        buffers = {name: value.detach() for name, value in self._model.named_buffers()}
        _, rows = sample_gradients(
            self._problem,
            self._layout,
            parameters,
            buffers,
            batch,
            positions,
            projector=self._projector,
            frozen=[name for name, value in self._model.named_parameters() if not value.requires_grad],
        )
        return rows
