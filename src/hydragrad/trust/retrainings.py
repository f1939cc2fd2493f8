"""A bank: what really happened to queries when a training was made again without some samples, in one small file.

Any library's contributions can be held against it, without the model, the data or a training. Which samples were left
out is packed, eight a byte; the file carries a digest of its content and the version of its form.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hydragrad.disk import load_sealed, read_metadata, save_sealed
from hydragrad.errors import QueryError, RecordingMismatch, RunDamaged, RunNotFound

FORM, SCHEMA = "hydragrad bank", 1
PACKED = ("left_out", "first_halves")


@dataclass(frozen=True, kw_only=True, eq=False)
class Bank:
    """The truth of retrainings: which samples were left out of each, and what the queries were then.

    Attributes:
        left_out: Which samples each retraining did without, bool (subsets, samples).
        values: The queries after each retraining, float64 (queries, seeds, subsets). One seed is one fixed run that was
            made again; several are several runs, each made again without the same samples. Where every subset had a
            seed of its own, it is one seed here, and `untouched` is None.
        query_names: One name a query.
        sample_ids: Which training samples the columns of `left_out` are, int64 (samples,).
        untouched: The queries of the runs themselves, float64 (queries, seeds), or None: then sizes of changes are not
            known, only their differences.
        weights: Loss weight of the left-out samples, one a subset, float64 (subsets,): 0 where they were left out.
        repeats: The values again from initial weights changed by one rounding, as `values`; NaN where not made.
        halves: The values without the first and without the second half of the left-out samples, float64
            (queries, seeds, subsets, 2); NaN where not made.
        first_halves: Which samples the first halves are, bool (subsets, samples).
        runs: Digest of the run of every seed; "" where it was not recorded.
        settings: Protocol, share, what removal means, seeds, model, data: whatever JSON holds.

    Raises:
        QueryError: Shapes that do not fit together, an empty subset, or values that are not finite.
    """

    left_out: Tensor
    values: Tensor
    query_names: tuple[str, ...]
    sample_ids: Tensor
    untouched: Tensor | None = None
    weights: Tensor
    repeats: Tensor | None = None
    halves: Tensor | None = None
    first_halves: Tensor | None = None
    runs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.dim() != 3 or self.left_out.dim() != 2:
            raise QueryError(
                f"A bank takes left_out of shape (subsets, samples) and values of shape (queries, seeds, subsets), got "
                f"{tuple(self.left_out.shape)} and {tuple(self.values.shape)}."
            )
        (subsets, samples), (queries, seeds, _) = self.left_out.shape, self.values.shape
        wanted = {
            "values": (queries, seeds, subsets),
            "sample_ids": (samples,),
            "weights": (subsets,),
            "untouched": (queries, seeds),
            "repeats": (queries, seeds, subsets),
            "halves": (queries, seeds, subsets, 2),
            "first_halves": (subsets, samples),
        }
        for name, shape in wanted.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise QueryError(f"A bank of these subsets has {name} of shape {shape}, got {tuple(tensor.shape)}.")
        if len(self.query_names) != queries or len(set(self.query_names)) != queries:
            raise QueryError(f"A bank needs a name of its own for each of its {queries} queries.")
        if len(self.runs) not in (0, seeds):
            raise QueryError(f"A bank of {seeds} seeds names as many runs, or none, got {len(self.runs)}.")
        if len(self.sample_ids.unique()) != samples:
            raise QueryError("The sample ids of a bank must differ.")
        if not bool(self.left_out.any(1).all()) or not subsets:
            raise QueryError("Every subset of a bank must leave out at least one sample, and there must be one.")
        if (self.halves is None) != (self.first_halves is None):
            raise QueryError("Values of halves need to know the halves: give halves and first_halves, or neither.")
        certain = [self.values, self.weights] + ([] if self.untouched is None else [self.untouched])
        if not all(bool(tensor.isfinite().all()) for tensor in certain):
            raise QueryError("The values of a bank must be finite. Leave out the retrainings that did not converge.")

    @classmethod
    def of(
        cls,
        left_out: ArrayLike | Tensor,
        values: ArrayLike | Tensor,
        *,
        query_names: Sequence[str] | None = None,
        sample_ids: Sequence[int] | Tensor | None = None,
        untouched: ArrayLike | Tensor | None = None,
        weight: float | Sequence[float] = 0.0,
        repeats: ArrayLike | Tensor | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make a bank of arrays, from retrainings of one's own.

        Args:
            left_out: Which samples each retraining did without, (subsets, samples), bool or 0 and 1. Of masks that say
                which samples a training *had*, take the opposite.
            values: The queries then, (queries, subsets), or (queries, seeds, subsets).
            query_names: Names; "query 0" and so on if None.
            sample_ids: Which training samples the columns are; 0 to N - 1 if None.
            untouched: The queries of the training with all samples, (queries,), or (queries, seeds).
            weight: Loss weight of what was left out, where it is not 0; one number, or one a subset.
            repeats: The values of repeats, of the shape of `values`; NaN where there is none.
            settings: What was trained, and how: whatever JSON holds.

        Raises:
            QueryError: What does not fit together, or masks of other numbers than 0 and 1.
        """
        mask = torch.as_tensor(np.asarray(left_out))
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise QueryError("left_out takes True where a sample was left out and False where not.")
        rows = _seeded(values, 3)
        subsets, samples = mask.shape if mask.dim() == 2 else (0, 0)
        names = [f"query {row}" for row in range(len(rows))] if query_names is None else query_names
        ids = torch.arange(samples) if sample_ids is None else torch.as_tensor(sample_ids, dtype=torch.int64)
        weights = torch.as_tensor(weight, dtype=torch.float64).reshape(-1)
        return cls(
            left_out=mask.bool(),
            values=rows,
            query_names=tuple(names),
            sample_ids=ids,
            untouched=None if untouched is None else _seeded(untouched, 2),
            weights=weights.expand(subsets) if len(weights) == 1 else weights,
            repeats=None if repeats is None else _seeded(repeats, 3),
            settings=dict(settings or {}),
        )

    @property
    def seeds(self) -> int:
        """How many runs were made again."""
        return self.values.shape[1]

    @property
    def removed(self) -> Tensor:
        """How much of every sample each retraining did without, float64 (subsets, samples); 1 where it was left out."""
        return self.left_out.double() * (1 - self.weights)[:, None]

    def changes(self, values: Tensor) -> Tensor:
        """How values differ from those of the untouched runs; from nothing, where those are not known.

        Args:
            values: (queries, seeds, ...).
        """
        if self.untouched is None:
            return values
        return values - self.untouched.reshape(*self.untouched.shape, *[1] * (values.dim() - 2))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; `path`'s folder is made."""
        optional = {"untouched": self.untouched, "repeats": self.repeats, "halves": self.halves}
        tensors = {"values": self.values, "weights": self.weights}
        tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        samples = len(self.sample_ids)
        if not torch.equal(self.sample_ids, torch.arange(samples)):
            tensors["sample_ids"] = self.sample_ids
        for name in PACKED:
            mask = getattr(self, name)
            if mask is not None:
                tensors[name] = torch.from_numpy(np.packbits(mask.numpy(), axis=1))
        metadata = {
            "form": FORM,
            "schema": str(SCHEMA),
            "samples": str(samples),
            "query_names": json.dumps(self.query_names),
            "runs": json.dumps(self.runs),
            "settings": json.dumps(dict(self.settings)),
        }
        save_sealed(tensors, Path(path), metadata, key=FORM)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            RunNotFound: There is none.
            RecordingMismatch: It is something else, or of a later version.
            RunDamaged: It is altered or truncated.
        """
        path = Path(path)
        if not path.exists():
            raise RunNotFound(f"There is no bank at {path}. Make one: hg.bank (hydragrad bank).")
        try:
            described = read_metadata(path)
        except (OSError, ValueError) as error:
            raise RunDamaged(f"{path} can't be read as a bank ({error}). Restore it from a copy.") from error
        if described.get("form") != FORM:
            raise RecordingMismatch(f"{path} is no bank of retrainings. Make one: hg.bank, or hg.Bank.of(...).save.")
        if described.get("schema") != str(SCHEMA):
            raise RecordingMismatch(
                f"{path} is a bank of schema {described.get('schema')}; this version of hydragrad reads schema "
                f"{SCHEMA}. Use the version that wrote it, or a later one."
            )
        try:
            return cls._unpacked(*load_sealed(path, key=FORM))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise RunDamaged(f"{path} is damaged ({error}). Restore it from a copy, or make it again.") from error

    load = open

    @classmethod
    def _unpacked(cls, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> Self:
        samples = int(metadata["samples"])
        for name in PACKED:
            if name in tensors:
                bits = np.unpackbits(tensors[name].numpy(), axis=1, count=samples)
                tensors[name] = torch.from_numpy(bits).bool()
        return cls(
            **{"sample_ids": torch.arange(samples)} | tensors,
            query_names=tuple(json.loads(metadata["query_names"])),
            runs=tuple(json.loads(metadata["runs"])),
            settings=json.loads(metadata["settings"]),
        )

    def __str__(self) -> str:
        sizes = self.left_out.sum(1)
        low, high = int(sizes.min()), int(sizes.max())
        size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        extras = [f"{self.seeds} seeds"] if self.seeds > 1 else []
        extras += ["repeats"] if self.repeats is not None else []
        extras += ["halves"] if self.halves is not None else []
        return (
            f"Bank of {len(self.left_out):,} retrainings without {size} of {len(self.sample_ids):,} samples, "
            f"{len(self.query_names):,} queries" + "".join(f", {extra}" for extra in extras)
        )

    __repr__ = __str__


def _seeded(values: ArrayLike | Tensor, dimensions: int) -> Tensor:
    """Values as float64, with a dimension for seeds in the second place where there is none."""
    tensor = torch.as_tensor(np.asarray(values), dtype=torch.float64)
    return tensor.unsqueeze(1) if tensor.dim() == dimensions - 1 else tensor
