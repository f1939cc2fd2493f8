"""The gradients of a step's tracked samples, while somebody else makes the step."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch._C import _functorch as functorch
from torch.utils.hooks import RemovableHandle

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
    agrees,
    normalises_batches,
    sample_gradients,
    tensor_leaves,
    tolerance_of,
)
from hydragrad.derivatives.coupling import CouplingWatch, random_weights
from hydragrad.derivatives.per_sample.weighted import weighted_gradient
from hydragrad.derivatives.torch_gaps.compiled import is_compiled
from hydragrad.errors import Unsupported
from hydragrad.randomness import preserved
from hydragrad.runs.log import MicroBatch
from hydragrad.surroundings import in_clean_surroundings

Route = Literal["layers", "vjp", "frozen"]

Named = dict[str, Tensor]


class StepGradients:
    """Gradients of single samples' losses inside their batch, over the step's divisor.

    Where samples are not coupled and every layer has a rule, they are made of what the step's own forward and
    backward pass shows ("layers"); everywhere else by one backward pass a sample ("vjp"). With frozen statistics, a
    BatchNorm's batch is no coupling, and one more forward and backward pass has the gradients of all ("frozen").

    At the first step, at steps whose model has other operations than before or some that may couple samples, and at
    random ones, the gradients are compared with one backward pass of their randomly weighted losses.

    Args:
        model: The model that is trained.
        loss: Per-sample loss.
        layout: The parameters to differentiate by.
        projector: Projects the gradients.
        batch_statistics: Whether gradients follow the statistics of a BatchNorm's batch.

    Attributes:
        route: How the gradients are made; None before the first step.
        compared: Steps whose gradients were compared.
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
        self._rows: Tensor | None = None
        self._probe: _Probe | None = None
        self._coupling, self._watched = CouplingWatch(), self._watch()
        self._steps = self.compared = 0
        self._step: _Step | None = None

    def before(self, positions: Sequence[int], batch: Callable[[], Batch], part: MicroBatch) -> None:
        """Prepare for a micro-batch.

        Args:
            positions: Those whose gradients are wanted.
            batch: Fetches the data; called where a pass of our own is needed.
            part: What is known of it; the coefficients of its losses are needed by `after` only.
        """
        self._step = _Step(positions, batch, part)
        self._rows = self._probe = None
        if self.route is None:
            self._try_layers()
        if positions:
            self._begin(self._step)
        if self._layers is not None:
            self._layers.begin(len(part))

    def after(self, part: MicroBatch | None = None) -> Tensor:
        """The gradients times their coefficients, (positions, columns), once forward and backward have run.

        Args:
            part: The micro-batch with the coefficients that its backward pass showed; as in `before` if None.

        Raises:
            Unsupported: No way to them agrees with the gradient that trains.
        """
        assert self._step is not None
        step, self._step = self._step, None
        step = step if part is None else step._replace(part=part)
        if step.part.autocast is not None:
            self._leave_half_precision(step)
        if self._layers is None:
            rows = None if self._rows is None else step.part.weighted(self._rows, step.positions, dim=0)
        else:
            rows = self._of_layers(step)
        if rows is None:
            width = self._layout.size if self._projector is None else self._projector.width
            return next(self._model.parameters()).new_zeros(0, width)
        if self._probe is None or self._holds(self._probe, step, rows):
            return rows
        if self._layers is not None:
            self._take_one_by_one()
            rows = self._weighted_one_by_one(step, self._probe)
            if self._holds(self._probe, step, rows):
                return rows
        raise Unsupported(
            "The gradient of a sum of losses is not the sum of their gradients: a hook, or a backward pass of its own, "
            "changes gradients by their size, so no sample has a gradient of its own. Train without it."
        )

    def _leave_half_precision(self, step: "_Step") -> None:
        """The step's own passes ran under autocast: gradients are taken without it, by passes of their own."""
        if self._layers is None:
            return
        if step.positions and self._probe is None:
            raise Unsupported(
                "The model ran without autocast at the first steps and under it later, and rows of these steps are "
                "made of the model's own passes. Train under one autocast, or record the run and use "
                "hg.hypergradients(run)."
            )
        self._take_one_by_one()
        if self._probe is not None:
            self._rows = self._plain_rows(step, self._probe)

    def close(self) -> None:
        """Take the hooks off the model."""
        if self._watched is not None:
            self._watched.remove()
        if self._layers is not None:
            self._layers.remove()
            self._layers = None

    def _begin(self, step: "_Step") -> None:
        if self._frozen is not None:
            self._rows = self._frozen(self._model, step.batch(), step.positions)
            return
        if self._steps == 0 or self._coupling.draws(self._steps):
            self._probe = self._probed(step)
        if self.route == "vjp":
            self._rows = self._one_by_one(step, *_state(self._model))
        self._steps += 1

    def _try_layers(self) -> None:
        try:
            self._layers, self.route = LayerGradients(self._model, self._layout, self._projector), "layers"
        except HooksInapplicable:
            self.route = "vjp"

    def _take_one_by_one(self) -> None:
        assert self._layers is not None
        self._layers.remove()
        self._layers, self.route = None, "vjp"

    def _of_layers(self, step: "_Step") -> Tensor | None:
        assert self._layers is not None
        try:
            rows = self._layers.rows(step.positions)
        except HooksInapplicable as error:
            if not step.positions and self._steps == 0:  # nothing was made of them yet
                self._take_one_by_one()
                return None
            if self._probe is None:
                raise Unsupported(
                    f"The model's layers were used otherwise than at the first step ({error}). Make the forward pass "
                    f"the same at every step, or build the store from a recorded run: hg.hypergradients(run)."
                ) from error
            return self._weighted_one_by_one(step, self._probe)
        return rows if step.positions else None

    def _watch(self) -> RemovableHandle | None:
        return None if is_compiled(self._model) else self._model.register_forward_hook(self._hook())

    def _hook(self) -> Callable[[nn.Module, Any, Any], None]:
        def look_at(called: nn.Module, _inputs: Any, output: Any) -> None:
            # Copies of the model carry this hook as it is; a transform of torch.func shows no tensors.
            if called is self._model and functorch.peek_interpreter_stack() is None:
                self._look_at(output)

        return look_at

    @in_clean_surroundings
    def _look_at(self, output: Any) -> None:
        """See from the model's output whether this step has to be compared; the state is still that before it."""
        step = self._step
        if step is None or not step.positions or self._layers is None:
            return
        outputs = [leaf for leaf in tensor_leaves(output) if leaf.requires_grad]
        wanted = [self._coupling.wants(self._steps, leaf) for leaf in outputs]
        if any(wanted) and self._probe is None and len(step.part) > 1:
            with preserved():
                self._probe = self._probed(step)

    def _probed(self, step: "_Step") -> "_Probe":
        self.compared += 1
        parameters, buffers = ({name: value.clone() for name, value in named.items()} for named in _state(self._model))
        weights = random_weights(next(iter(parameters.values())).new_empty(len(step.positions)), self._steps)
        modes = [module.training for module in self._model.modules()]
        return _Probe(parameters, buffers, weights, modes, self._frozen_parameters())

    def _holds(self, probe: "_Probe", step: "_Step", rows: Tensor) -> bool:
        """Whether the weighted sum of rows is the gradient of the weighted sum of losses, by one backward pass."""
        all_weights = probe.weights.new_zeros(len(step.part))
        all_weights[list(step.positions)] = step.part.weighted(probe.weights, step.positions)
        where = (self._copy(probe.modes), self._layout, probe.parameters, probe.buffers, step.batch())
        with preserved():
            gradient, _ = weighted_gradient(*where, all_weights, frozen=probe.frozen)
        if self._projector is not None:
            gradient = self._projector.flat(gradient[None])[0]
        tolerance = tolerance_of(rows.dtype, probe.weights.dtype)
        return agrees(probe.weights.to(rows) @ rows, gradient.to(rows), tolerance=tolerance)

    def _weighted_one_by_one(self, step: "_Step", probe: "_Probe") -> Tensor:
        return step.part.weighted(self._plain_rows(step, probe), step.positions, dim=0)

    def _plain_rows(self, step: "_Step", probe: "_Probe") -> Tensor:
        with preserved():
            return self._one_by_one(step, probe.parameters, probe.buffers, probe.modes)

    def _one_by_one(
        self, step: "_Step", parameters: Named, buffers: Named, modes: Sequence[bool] | None = None
    ) -> Tensor:
        _, rows = sample_gradients(
            self._copy(modes),
            self._layout,
            parameters,
            buffers,
            step.batch(),
            step.positions,
            projector=self._projector,
            frozen=self._frozen_parameters(),
        )
        return rows

    def _copy(self, modes: Sequence[bool] | None = None) -> LossModule:
        """A copy of the model and its loss, in the model's modes, now or as they were."""
        if self._problem is None:
            self._problem = LossModule(self._model, self._loss)
        self._problem.take_modes(self._model)
        if modes is not None:
            for module, training in zip(self._problem.model.modules(), modes, strict=True):
                module.training = training
        return self._problem

    def _frozen_parameters(self) -> list[str]:
        return [name for name, value in self._model.named_parameters() if not value.requires_grad]


class _Step(NamedTuple):
    """What is wanted of a step: gradients of the samples at `positions`."""

    positions: Sequence[int]
    batch: Callable[[], Batch]
    part: MicroBatch


class _Probe(NamedTuple):
    """Where a micro-batch's rows are compared, and along which random weights of them.

    Attributes:
        parameters: Before it.
        buffers: Before it.
        weights: Random weights of the rows.
        modes: Of the modules.
        frozen: Parameters that are not trained.
    """

    parameters: Named
    buffers: Named
    weights: Tensor
    modes: list[bool]
    frozen: list[str]


def _state(model: nn.Module) -> tuple[Named, Named]:
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    return parameters, {name: value.detach() for name, value in model.named_buffers()}
