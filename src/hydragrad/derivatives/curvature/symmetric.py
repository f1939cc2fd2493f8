"""Whether the trained gradient is the derivative of the loss: without that there is no symmetric curvature.

A reverse sweep needs the transpose of the gradient's derivative, and uses the derivative itself, along g_bar, in its
place. The two are the same where the gradient is that of a function. It is not where a gradient is stopped on its way
(`detach()`, `.data`, `torch.no_grad`), nor where the padding row of an embedding is used otherwise than as a lookup:
torch gives the row no gradient of the lookup, but one of the other use.
"""

import torch
from torch import Tensor, nn

from hydragrad.derivatives.directional.forward_mode import differentiable_kernels, one_direction
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import Batch, LossModule
from hydragrad.derivatives.moving import moved_by, random_direction
from hydragrad.derivatives.stopped import through_stops
from hydragrad.errors import Unsupported

Named = dict[str, Tensor]

STOPPED_ABOVE = 1e-5
"""A gradient that differs by more than this, relative to the loss's own derivative, is stopped on its way."""

POINTS, NEARBY = 3, 1e-3
"""It is so at all of so many points, moved by this share of the weights: at a kink, the rounding of another kernel can
turn the derivative of a single sample, at one point and not at the next."""


def require_symmetric(problem: LossModule, layout: Layout, parameters: Named, buffers: Named, batch: Batch) -> None:
    """Refuse a model and loss whose gradient is no derivative, as shown by one batch.

    Values that are detached for logging, or where that changes nothing, are accepted.

    Args:
        problem: The private copy of model and loss.
        layout: The parameters that are trained.
        parameters: Values of all parameters.
        buffers: Values of all buffers.
        batch: The batch.

    Raises:
        Unsupported: The gradient is stopped on its way, or a padding row learns.
    """
    learning = _learning_padding(problem, parameters, buffers, batch)
    if learning:
        raise Unsupported(
            f"The embedding {learning[0]} has a padding index and shares its weight with another layer, so torch's "
            f"gradient of it is no derivative of the loss, and has no symmetric curvature. Use curvature='none'."
        )
    like, generator = next(iter(parameters.values())), torch.Generator().manual_seed(1)
    direction = torch.randn(layout.size, generator=generator, dtype=like.dtype).to(like.device)
    values = parameters
    for _ in range(POINTS):
        if not _is_stopped(problem, layout, values, buffers, batch, direction):
            return
        values = moved_by(layout, parameters, NEARBY * random_direction(layout, parameters, like, generator))
    raise Unsupported(
        "The gradient is stopped inside the model or the loss (detach(), .data or torch.no_grad()) where that "
        "changes it: the run was trained along something that is not the derivative of its loss, and has no "
        "symmetric curvature. Use curvature='none', which follows the gradient that trained."
    )


def _is_stopped(
    problem: LossModule, layout: Layout, parameters: Named, buffers: Named, batch: Batch, direction: Tensor
) -> bool:
    """Whether the trained gradient is another than that of the loss's own value, along a direction."""
    where = (problem, layout, parameters, buffers, batch, direction)
    try:
        trained = one_direction(*where).losses_dot.detach()
        true = one_direction(*where, evaluating=through_stops).losses_dot.detach()
    except (RuntimeError, NotImplementedError):
        return False  # Something that only runs without gradients has no forward-mode rule: the test cannot be made.
    return float((true - trained).norm()) > STOPPED_ABOVE * float(true.norm())


def _learning_padding(problem: LossModule, parameters: Named, buffers: Named, batch: Batch) -> list[str]:
    """Names of embeddings whose padding row has a gradient."""
    names = {id(parameter): name for name, parameter in problem.model.named_parameters()}
    paddings = {
        names.get(id(module.weight), ""): module.padding_idx
        for module in problem.model.modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }
    leaves = {name: parameters[name].detach().requires_grad_() for name in paddings if name in parameters}
    if not leaves:
        return []
    with torch.enable_grad(), differentiable_kernels():
        losses, _ = problem.at(parameters | leaves, buffers, batch)
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
    return [
        name.removesuffix(".weight")
        for name, gradient in zip(leaves, gradients, strict=True)
        if gradient is not None and bool(gradient[paddings[name]].any())
    ]
