"""Derivatives of a sample's loss under every possible label, from one tangent of the logits.

For cross-entropy, the derivative of the loss under label k along G is z_dot . (softmax(z) - e_k): the softmax
term is common to all k.
"""

from typing import Any

from torch import Tensor

from hydragrad.derivatives.directional.forward_mode import Directional
from hydragrad.derivatives.label_leaf import plain_cross_entropy
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
        LossError: No labels in the batch, integers or one-hot rows, give these losses as cross-entropy of the output.
    """
    assert along.output is not None
    if not plain_cross_entropy(along.output, along.losses, tensor_leaves(data)):
        raise LossError(
            "labels=True needs a loss that is plain cross-entropy (no smoothing, no class weights) of the output "
            f"(batch, classes) of the model's one call with integer labels from the batch; the output here has shape "
            f"{tuple(along.output.shape)} and the losses are something else. Leave labels=True out."
        )
