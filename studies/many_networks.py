"""Many small networks of one kind trained at once: parameters stacked, one vectorised step for all of them.

A step of a small network costs more in calls than in arithmetic; stacked, the calls are shared. For what is trained
hundreds of times with other samples, weights or seeds. Nothing is recorded.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state
from torch.utils.data import TensorDataset

from hydragrad.derivatives import Batch, LossModule, PerSampleLoss
from hydragrad.errors import Unsupported
from hydragrad.progress import bar
from hydragrad.randomness import preserved, stream_seed

Stacked = dict[str, Tensor]
"""Parameters of M networks by name, (M, *shape)."""


def train_together(
    models: Sequence[nn.Module],
    loss: PerSampleLoss,
    data: TensorDataset,
    batches: Sequence[Tensor],
    *,
    lr: float | Callable[[int], float],
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    weights: Tensor | None = None,
    seed: int = 0,
    title: str = "training",
) -> Stacked:
    """Train M networks by SGD, one step of all of them at a time.

    Args:
        models: Initialised networks of one kind, without buffers; they are not changed.
        loss: Per-sample losses; a step descends their weighted sum over the size of the batch.
        data: Inputs and labels.
        batches: The samples of every step, int64: (batch,) for all networks, or (M, batch) a row for each.
        lr: Rate, or rate by step.
        momentum: As torch.optim.SGD.
        weight_decay: As torch.optim.SGD.
        weights: Loss weight of every sample in every network, (M, samples); 1 if None.
        seed: Of the steps' dropout, which differs between networks.
        title: Of the progress bar.

    Returns:
        The trained parameters, stacked.

    Raises:
        Unsupported: Networks with buffers.

    Cost: memory is M times one network, its gradient and its momentum. The smaller a network, the less it costs
        (docs/costs.md).
    """
    if any(True for _ in models[0].buffers()):
        raise Unsupported("Networks with buffers (BatchNorm) can't be trained together. Train them one at a time.")
    stacked = {name: value.detach().clone() for name, value in stack_module_state(list(models))[0].items()}
    velocity: Stacked = {}
    step = _gradients(models[0], loss)
    with preserved(), bar(title, len(batches)) as progress:
        for number, indices in enumerate(batches):
            of_each = indices if indices.dim() == 2 else indices.expand(len(models), -1)
            alpha = None if weights is None else weights.gather(1, of_each)
            batch = [part[indices] for part in data.tensors]
            gradients = step(stacked, batch, indices.dim() == 2, alpha, stream_seed(seed, number))
            rate = lr(number) if callable(lr) else lr
            _sgd(stacked, gradients, velocity, rate, momentum, weight_decay)
            progress.advance()
    return stacked


def outputs_together(model: nn.Module, stacked: Stacked, inputs: Tensor) -> Tensor:
    """Return the outputs of M networks in eval mode, (M, inputs, classes)."""
    modes = [module.training for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            outputs: Tensor = torch.vmap(lambda one: functional_call(model, one, (inputs,)), chunk_size=8)(stacked)
    finally:
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
    return outputs


def _gradients(model: nn.Module, loss: PerSampleLoss) -> Callable[..., Stacked]:
    problem = LossModule(model, loss)
    problem.train()

    def step(stacked: Stacked, data: list[Tensor], own: bool, alpha: Tensor | None, seed: int) -> Stacked:
        size = data[0].shape[1 if own else 0]

        def objective(one: Stacked, data: list[Tensor], alpha: Tensor | None) -> Tensor:
            losses, _ = problem.at(one, {}, Batch(data, size, seed))
            return (losses if alpha is None else losses * alpha).sum() / size

        vectorised: Any = torch.vmap(
            grad(objective), in_dims=(0, 0 if own else None, None if alpha is None else 0), randomness="different"
        )
        gradients: Stacked = vectorised(stacked, data, alpha)
        return gradients

    return step


def _sgd(
    stacked: Stacked, gradients: Stacked, velocity: Stacked, lr: float, momentum: float, weight_decay: float
) -> None:
    """One step of torch.optim.SGD, in place."""
    for name, value in stacked.items():
        gradient = gradients[name]
        if weight_decay:
            gradient = gradient.add(value, alpha=weight_decay)
        if momentum:
            gradient = velocity[name].mul_(momentum).add_(gradient) if name in velocity else gradient.clone()
            velocity[name] = gradient
        value.sub_(gradient, alpha=lr)
