"""What the model is called with, sample by sample: the input, without labels, indices and weights of the batch."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hydragrad.derivatives import Evaluator, Layout, Projector, tensor_leaves
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Trained

AT_ONCE = 500
"""Samples in one batch."""

DIMS = 2048
"""Columns of a vector; longer inputs are projected."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of some samples.

    Attributes:
        digests: Equal for equal inputs; of sequences without what a batch pads them with.
        vectors: float32 (samples, columns) where all inputs are floating-point and of one shape; else None.
    """

    digests: list[str]
    vectors: Tensor | None


def model_inputs(
    run: Trained, samples: Sequence[int], fetch_batch: Callable[[Sequence[int]], Any], label: int | None
) -> Inputs:
    """Call the loss, and take what the model got.

    Args:
        run: Model and loss.
        samples: Which ones.
        fetch_batch: Makes the batch of some of them.
        label: Number of the batch's leaf that is the target, which may be passed to the model and is no input.
    """
    batches = _batches(run, samples, fetch_batch, label, AT_ONCE)
    if (
        len({_shape(tensors) for tensors in batches}) > 1
    ):  # padded to the longest of a batch: one at a time there is none
        batches = _batches(run, samples, fetch_batch, label, 1)
    digests = [digest for tensors in batches for digest in _digests(tensors)]
    real = all(tensor.is_floating_point() for tensors in batches for tensor in tensors)
    if len({_shape(tensors) for tensors in batches}) > 1 or not real or not batches[0]:
        return Inputs(digests, None)
    return Inputs(digests, _projected(torch.cat([_flat(tensors) for tensors in batches])))


def _batches(
    run: Trained, samples: Sequence[int], fetch_batch: Callable[[Sequence[int]], Any], label: int | None, size: int
) -> list[list[Tensor]]:
    """What the model gets for batches of so many samples."""
    model, evaluate = run.trained_model(), Evaluator(run.loss)
    batches = []
    with preserved(), torch.no_grad(), bar("reading inputs", len(samples), unit="samples") as progress:
        for start in range(0, len(samples), size):
            ids = samples[start : start + size]
            batches.append(_called_with(model, evaluate, fetch_batch(ids), len(ids), label))
            progress.advance(len(ids))
    return batches


def _shape(tensors: Sequence[Tensor]) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape[1:] for tensor in tensors)


def _called_with(model: nn.Module, evaluate: Evaluator, data: Any, size: int, label: int | None) -> list[Tensor]:
    """Tensors (size, ...) that the model is called with, the first time, but for the target."""
    calls = list[list[Tensor]]()
    targets = tensor_leaves(data)

    def note(_module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        calls.append([leaf.detach() for leaf in tensor_leaves([inputs, options])])

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        evaluate(model, data)
    finally:
        handle.remove()
    target = None if label is None else targets[label]
    rows = [leaf.cpu() for leaf in (calls[0] if calls else []) if leaf.dim() and len(leaf) == size]
    same = [target is not None and leaf.shape == target.shape and torch.equal(leaf, target.cpu()) for leaf in rows]
    without = [leaf for leaf, is_target in zip(rows, same, strict=True) if not is_target]
    return without or rows  # of an autoencoder the input is the target


def _digests(tensors: Sequence[Tensor]) -> list[str]:
    digests = []
    for row in range(len(tensors[0]) if tensors else 0):
        digest = hashlib.sha256()
        for tensor in tensors:
            values = tensor[row].contiguous()
            digest.update(str((values.dtype, tuple(values.shape))).encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b"")
        digests.append(digest.hexdigest())
    return digests


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(len(tensor), -1).float() for tensor in tensors], 1)


def _projected(vectors: Tensor) -> Tensor:
    width = vectors.shape[1]
    if width <= DIMS:
        return vectors
    return Projector(Layout({"input": (width,)}), [["input"]], DIMS, dtype=torch.float32).flat(vectors)
