"""Derivatives of a sample's loss under every possible label, from one tangent of the logits.

For cross-entropy, the derivative of the loss under label k along G is z_dot . (softmax(z) - e_k): the softmax
term is common to all k.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hydragrad.derivatives.directional.forward_mode import Directional
from hydragrad.derivatives.leaves import tensor_leaves
from hydragrad.errors import LossError


def label_derivatives(along: Directional) -> Tensor:
    """Derivatives of the loss under every label along Q directions, (Q, batch, classes)."""
    assert along.output is not None and along.output_dot is not None
    common = (along.output.softmax(-1) * along.output_dot).sum(-1, keepdim=True)
    return common - along.output_dot


def require_cross_entropy(along: Directional, data: Any) -> None:
    """Refuse losses other than plain cross-entropy of the output with integer labels of the batch.

    Raises:
        LossError: No integer tensor of the batch gives these losses as cross-entropy of the output.
    """
    output, losses = along.output, along.losses
    assert output is not None
    if output.dim() == 2:
        for leaf in tensor_leaves(data):
            if leaf.shape == losses.shape and not leaf.is_floating_point() and _in_range(leaf, output.shape[1]):
                plain = F.cross_entropy(output, leaf.long(), reduction="none")
                if torch.allclose(plain, losses, rtol=1e-3, atol=1e-5):
                    return
    raise LossError(
        "labels=True needs a loss that is plain cross-entropy (no smoothing, no class weights) of the output "
        f"(batch, classes) of the model's one call with integer labels from the batch; the output here has shape "
        f"{tuple(output.shape)} and the losses are something else. Leave labels=True out."
    )


def _in_range(labels: Tensor, classes: int) -> bool:
    return bool((labels >= 0).all() and (labels < classes).all())
