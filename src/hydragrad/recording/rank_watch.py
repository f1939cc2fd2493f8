"""What one rank shows of a step: that forward passes are averaged, the buffers they begin with, its own gradient.

A rank's own gradient is seen where autograd hands it to a parameter, before it is averaged. It can be computed again
from the rank's own record, so that another loss or batch is refused at once; that the average is one of all ranks shows
when the parts of the run are put together.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hydragrad.errors import StepError, Unsupported
from hydragrad.recording.data_parallel import Processes, hooks_of, require_plain
from hydragrad.replay.fingerprints import state_number, state_of
from hydragrad.runs.log import MicroBatch, StepRecord

Named = dict[str, Tensor]


class RankWatch:
    """Watches the step blocks of one of several processes.

    Args:
        processes: Which process this is.
        optimizers: Those of the model.
        method: The call that opens a step block, for messages.

    Attributes:
        gradients: What the backward pass of each micro-batch of a noted step gave, by name.
        buffers: What each of their forward passes began with.
    """

    def __init__(self, processes: Processes, optimizers: Iterable[Optimizer], method: str) -> None:
        self._processes, self._optimizers, self._method = processes, list(optimizers), method
        self._handles: list[RemovableHandle] = []
        self._parameter_handles: list[RemovableHandle] = []
        self._inside, self._passes, self._notes, self._in_wrapper = False, 0, False, 0
        self._buffers: float | None = None
        self.gradients: list[Named] = []
        self.buffers: list[Named] = []

    @property
    def called(self) -> nn.Module:
        """What the loop calls for its losses: the DistributedDataParallel, or the model where that is called by it."""
        wrapper = self._processes.wrapper
        return self._processes.model if self._in_wrapper or wrapper is None else wrapper

    @property
    def compared_buffers(self) -> Literal["rank 0", "nobody's"]:
        """Whose buffers are compared from step to step: every other rank's are overwritten with those of rank 0."""
        return "nobody's" if self._processes.rank else "rank 0"

    def attach(self) -> None:
        """Watch from now on."""
        wrapper = self._processes.wrapper
        assert wrapper is not None
        self._handles = [
            wrapper.register_forward_pre_hook(_plain(self._before_wrapper)),
            wrapper.register_forward_hook(_plain(self._after_wrapper), always_call=True),
            self._processes.model.register_forward_pre_hook(_plain(self._before_model)),
        ]

    def detach(self) -> None:
        """Watch no longer."""
        for handle in (*self._handles, *self._parameter_handles):
            handle.remove()
        self._handles, self._parameter_handles = [], []

    def begin_step(self, *, noted: bool) -> None:
        """The first micro-batch of a step is about to begin; note its gradients and buffers where that is wanted."""
        for handle in self._parameter_handles:
            handle.remove()
        self.gradients, self.buffers, self._notes, self._parameter_handles = [], [], noted, []
        if noted:
            for name, parameter in self._processes.model.named_parameters():
                if parameter.requires_grad:
                    self._parameter_handles.append(parameter.register_hook(_noting(self, name)))

    def begin(self) -> None:
        """A block was entered."""
        self._inside, self._passes, self._buffers, self._in_wrapper = True, 0, None, 0
        if self._notes:
            self.gradients.append({})

    def leave(self) -> None:
        """It was left."""
        self._inside = False

    def shown(self, part: MicroBatch, step: int) -> MicroBatch:
        """A micro-batch with what was seen of it.

        Raises:
            StepError: No forward pass went through the DistributedDataParallel.
            Unsupported: A communication hook was registered meanwhile.
        """
        wrapper = self._processes.wrapper
        assert wrapper is not None
        if not self._passes:
            raise StepError(
                f"Forward passes must go through DistributedDataParallel, which averages the gradients of all ranks; "
                f"in the {self._method} block of step {step} none did. Call it, not its .module: "
                f"losses = step.losses(batch), or loss(ddp, batch)."
            )
        if hooks_of(wrapper):
            require_plain(wrapper, self._processes.model)
        return replace(part, rank=self._processes.rank, buffers=self._buffers)

    def shared(self, state: float) -> float:
        """One number over parameters and optimizer states, which all ranks have alike.

        Args:
            state: The same with the buffers.
        """
        model = self._processes.model
        buffers = {id(buffer) for buffer in model.buffers()}
        if not buffers:
            return state
        return state_number(value for value in state_of(model, self._optimizers) if id(value) not in buffers)

    def own_gradient(self, record: StepRecord) -> Named:
        """The sum of the noted gradients, of micro-batches whose gradient was not thrown away."""
        total: Named = {}
        for part, gradients in zip(record.micro_batches, self.gradients, strict=True):
            if not isinstance(part.coefficients, tuple) or any(part.coefficients):
                for name, gradient in gradients.items():
                    total[name] = total[name] + gradient if name in total else gradient
        return total

    def note(self, name: str, gradient: Tensor) -> None:
        """A parameter got a gradient; for the second time in a backward pass where it is computed in pieces."""
        if self._inside:
            noted, gradient = self.gradients[-1], gradient.detach().clone()
            noted[name] = noted[name] + gradient if name in noted else gradient

    def _after_wrapper(self, _module: nn.Module) -> None:
        self._in_wrapper -= 1

    def _before_wrapper(self, _module: nn.Module) -> None:
        self._in_wrapper += 1
        if not self._inside:
            return
        self._passes += 1
        if self._processes.wrapper._join_config.enable:  # type: ignore[union-attr]
            raise Unsupported(
                "All ranks must make the same steps; inside of join() those that ran out of batches only shadow the "
                "others. Give every rank as many batches: DistributedSampler does, or drop_last=True."
            )

    def _before_model(self, module: nn.Module) -> None:
        if not self._inside or self._buffers is not None or module is not self._processes.model:
            return
        buffers = {name: buffer.detach() for name, buffer in self._processes.model.named_buffers()}
        if buffers:
            self._buffers = state_number(buffers.values())
        if self._notes and len(self.buffers) < len(self.gradients):
            self.buffers.append({name: buffer.clone() for name, buffer in buffers.items()})


def _plain(then: Callable[[nn.Module], None]) -> Callable[..., None]:
    """A plain function, since a copy of the model copies its hooks."""

    def hook(module: nn.Module, *_inputs_and_output: Any) -> None:
        then(module)

    return hook


def _noting(watch: RankWatch, name: str) -> Callable[[Tensor], None]:
    def note(gradient: Tensor) -> None:
        watch.note(name, gradient)

    return note
