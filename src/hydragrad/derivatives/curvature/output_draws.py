"""Random gradients at a model's output, whose second moment is the Hessian of the losses in that output.

The Gauss-Newton matrix is J' H J, with H the Hessian of the losses in the output. Of xi with E xi xi' = H, the backward
pass makes J' xi, whose second moment is the Gauss-Newton matrix. Where the loss is the negative log of a distribution,
gradients at labels drawn from it would do; here the loss may be any, so xi = H^(1/2) z with z standard normal, by a few
Lanczos steps for every sample, which need products with H alone: passes through the loss, not through the model.

    V = [v_1 ... v_k] orthonormal, v_1 = z / |z|, V' H V = T tridiagonal     H^(1/2) z ~ |z| V T^(1/2) e_1

Source: Schraudolph 2002 (J' H J); Golub and Van Loan, Matrix Computations, section 10.2 (Lanczos).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hydragrad.derivatives.loss_module import Batch, LossModule
from hydragrad.derivatives.one_call import losses_of_output

STEPS = 16
"""Of Lanczos; with no more output numbers a sample than steps, the root is exact."""


def output_draws(
    problem: LossModule, batch: Batch, output: Tensor, generator: torch.Generator, *, steps: int = STEPS
) -> Tensor:
    """Draw a gradient at the output, of its shape, for every sample on its own.

    Args:
        problem: The private copy of model and loss; its output was captured.
        batch: The batch.
        output: What the model's one call returned.
        generator: On the CPU.
        steps: Products with the Hessian, at most.

    Where the losses are not convex in the output, their negative curvature counts as none.
    """
    count = batch.size if output.dim() and len(output) == batch.size else 1
    z = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output).reshape(count, -1)
    times = _hessian_of_losses(problem, batch, output)
    return root_times(lambda v: times(v.view(output.shape)).reshape(count, -1), z, min(steps, z.shape[1])).view(
        output.shape
    )


def root_times(times: Callable[[Tensor], Tensor], z: Tensor, steps: int) -> Tensor:
    """The square root of a symmetric matrix a row times z, (rows, m); negative eigenvalues count as zero.

    Args:
        times: Every row's own matrix times that row, (rows, m).
        z: (rows, m).
        steps: Of Lanczos.
    """
    length = z.norm(dim=1)
    basis = [z / length[:, None]]
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    for step in range(steps):
        w = times(basis[-1])
        diagonal.append((w * basis[-1]).sum(1))
        if step == steps - 1:
            break
        before = w.norm(dim=1)
        # Twice, since once leaves rounding that grows with the steps.
        for _ in range(2):
            for v in basis:
                w = w - (w * v).sum(1, keepdim=True) * v
        size = w.norm(dim=1)
        # What is left by rounding alone is no direction: the space is exhausted.
        size = torch.where(size > 10 * torch.finfo(z.dtype).eps ** 0.75 * before, size, 0)
        off_diagonal.append(size)
        basis.append(torch.where(size > 0, 1 / size, 0)[:, None] * w)
        if not size.any():
            diagonal.append(torch.zeros_like(size))
            break
    values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, off_diagonal).double())
    first = vectors[:, 0] * values.clamp(min=0).sqrt()
    weights = torch.einsum("rkj,rj->rk", vectors, first).to(z) * length[:, None]
    return torch.stack([weights[:, k, None] * v for k, v in enumerate(basis)]).sum(0)


def _tridiagonal(diagonal: list[Tensor], off_diagonal: list[Tensor]) -> Tensor:
    """(rows, k, k)."""
    matrix = torch.diag_embed(torch.stack(diagonal, 1))
    if off_diagonal:
        off = torch.stack(off_diagonal, 1)
        matrix = matrix + torch.diag_embed(off, offset=1) + torch.diag_embed(off, offset=-1)
    return matrix


def _hessian_of_losses(problem: LossModule, batch: Batch, output: Tensor) -> Callable[[Tensor], Tensor]:
    """Products with the Hessian of the summed losses in the output, tensors of its shape."""
    with torch.enable_grad():
        leaf = output.detach().requires_grad_()
        total = losses_of_output(problem, batch, leaf).sum()
        gradient = torch.autograd.grad(total, leaf, create_graph=True)[0] if total.requires_grad else leaf.new_zeros(())

    def times(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:
            return torch.zeros_like(vector)
        (product,) = torch.autograd.grad(
            gradient, leaf, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return product

    return times
