"""Near duplicates inside the training set, and samples of it in held-out data: near in gradient and in input.

Two samples that pull the model the same way and look the same are copies, or taken one right after the other. Neither
shows it alone: gradients of all well-learned samples of a class are alike, and so are inputs on the same background.
What counts is the product of both cosines, of the gradients at the trained weights and of the inputs less their mean.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.attribution.sample_rows import projected_gradients
from hydragrad.cleaning.model_inputs import Inputs, model_inputs
from hydragrad.errors import LossError, QueryError
from hydragrad.progress import bar
from hydragrad.replay import Recording, label_of, require_map_style, samples_in, target_of
from hydragrad.replay.data import Collate
from hydragrad.replay.held_out import HeldOutBatches
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints

AT_ONCE = 1000
"""Samples that are compared with all others at a time."""


@in_clean_surroundings
def near_duplicates(
    run: Recording | Checkpoints,
    held_out: Dataset[Any] | None = None,
    *,
    first: int = 100,
    collate: Collate | None = None,
) -> pd.DataFrame:
    """Find near duplicates inside the training set, or training samples that held-out data hold again (leaks).

    Equal inputs are always found, whatever their labels. The others are ranked; the highest are worth a look, and no
    threshold is set.

    Args:
        run: The recorded run, or checkpoints of a model trained elsewhere.
        held_out: Data in which to look for training samples; None looks inside the training set.
        first: How many pairs of inputs that are not equal to return, at most.
        collate: Makes a batch of held-out items, as for `hg.mean_loss`.

    Returns:
        One row a pair, equal inputs first, then the nearest first: `sample` (of the training set), `other` (of the
        held-out data; without them another training sample, the later one), `same_input`, `nearness` (the product of
        the two cosines, 0 where one is negative; of inputs that are not floating-point or differ in shape, the
        gradients' alone), `gradient_cosine` (at the trained weights, of projections; NaN where a gradient is zero) and
        `input_cosine` (of the inputs less the mean training input; NaN where there is none). A sample stands next to
        the one nearest to it; of several equal inputs, every later one stands next to the first.
        `frame.attrs["held_out"]` says whether `other` is of held-out data.

    Raises:
        QueryError: `first` is negative, or there is nothing to compare.
        NonFinite: Samples whose gradients are not finite.

    Cost: a backward pass a sample, and a product of all samples with all others in 1,024 to 3,072 columns.
    """
    if first < 0:
        raise QueryError(f"first must be 0 or more pairs, got {first}.")
    if held_out is not None:
        require_map_style(held_out, "held-out data set")
    if samples_in(run) < (1 if held_out is not None else 2):
        raise QueryError("There must be two training samples to compare, or held-out data; give held-out data.")
    label, train = _label(run), range(samples_in(run))
    ours = _Looked(projected_gradients(run, train), model_inputs(run, train, run.collate, label))
    theirs = ours
    if held_out is not None:
        batches = HeldOutBatches(run.model, run.loss, run.collate_fn, run.device)
        data, their_ids = held_out, range(len(held_out))  # type: ignore[arg-type]

        def fetched(ids: Sequence[int]) -> Any:
            return batches(data, ids, collate)

        gradients = projected_gradients(run, their_ids, fetch_batch=fetched)
        theirs = _Looked(gradients, model_inputs(run, their_ids, fetched, label))
    return _pairs(ours, theirs, first)


class _Looked(NamedTuple):
    """Gradients (samples, columns) and inputs of some samples."""

    gradients: Tensor
    inputs: Inputs


def _label(run: Recording | Checkpoints) -> int | None:
    for find in (label_of, target_of):
        try:
            return find(run).leaf
        except LossError:
            pass
    return None


def _pairs(ours: _Looked, theirs: _Looked, first: int) -> pd.DataFrame:
    same = theirs is ours
    units, their_units = (F.normalize(looked.gradients.float(), dim=1) for looked in (ours, theirs))
    inputs, their_inputs = _centred(ours.inputs.vectors, theirs.inputs.vectors)
    pairs = _equal(ours.inputs.digests, theirs.inputs.digests, same=same)
    equal = set(pairs)
    others = dict[tuple[int, int], float]()
    with bar("comparing", len(their_units), unit="samples") as progress:
        for start in range(0, len(their_units), AT_ONCE):
            near = their_units[start : start + AT_ONCE] @ units.T
            if inputs is not None and their_inputs is not None:
                near = near.clamp(min=0) * (their_inputs[start : start + AT_ONCE] @ inputs.T).clamp(min=0)
            if same:
                near[torch.arange(len(near)), start + torch.arange(len(near))] = -2.0
            best = near.max(1)
            for row, (value, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
                pair = (min(place, start + row), max(place, start + row)) if same else (place, start + row)
                others[pair] = value
            progress.advance(len(near))
    nearest = sorted((pair for pair in others if pair not in equal), key=lambda pair: (-others[pair], pair))[:first]
    pairs = [*pairs, *nearest]
    sample, other = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    gradient = (units[sample].double() * their_units[other]).sum(1)
    defined = (units[sample] != 0).any(1) & (their_units[other] != 0).any(1)
    cosine = None
    if inputs is not None and their_inputs is not None:
        cosine = (inputs[sample].double() * their_inputs[other]).sum(1)
    near = gradient if cosine is None else gradient.clamp(min=0) * cosine.clamp(min=0)
    frame = pd.DataFrame(
        {
            "sample": sample.numpy(),
            "other": other.numpy(),
            "same_input": np.arange(len(pairs)) < len(equal),
            "nearness": torch.where(defined, near, 0.0).numpy(),
            "gradient_cosine": torch.where(defined, gradient, torch.nan).numpy(),
            "input_cosine": np.full(len(pairs), np.nan) if cosine is None else cosine.numpy(),
        }
    )
    frame.attrs["held_out"] = not same
    return frame


def _equal(ours: Sequence[str], theirs: Sequence[str], *, same: bool) -> list[tuple[int, int]]:
    """Pairs of equal inputs: every later one with the first."""
    first: dict[str, int] = {}
    for place, digest in enumerate(ours):
        first.setdefault(digest, place)
    pairs = ((first[digest], place) for place, digest in enumerate(theirs) if digest in first)
    return [pair for pair in pairs if not same or pair[0] < pair[1]]


def _centred(ours: Tensor | None, theirs: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Inputs less the mean training input, of length 1; None where they can't be compared."""
    if ours is None or theirs is None or ours.shape[1:] != theirs.shape[1:]:
        return None, None
    mean = ours.mean(0)
    return F.normalize(ours - mean, dim=1), F.normalize(theirs - mean, dim=1)
