"""Score matrices of any library, brought into the order of a bank: one row a query, one column a sample."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hydragrad.errors import QueryError
from hydragrad.scores import Scores

Array = NDArray[np.float64]
Matrix = Scores | Tensor | ArrayLike
Rows = Literal["queries", "samples"]
EffectOf = Literal["removal", "presence"]
SHOWN = 5


class Placed(NamedTuple):
    """Contributions in the order of a bank.

    Attributes:
        values: float64 (some queries, samples of the bank); 0 where a sample that is in no subset has no score.
        rows: Which queries of the bank they are about.
    """

    values: Array
    rows: list[int]


def placed(
    scores: Matrix,
    *,
    query_names: Sequence[str],
    sample_ids: Tensor,
    needed: Tensor,
    rows: Rows | None = None,
    own_ids: Sequence[int] | Tensor | None = None,
    effect_of: EffectOf = "removal",
) -> Placed:
    """Bring scores into the order of a bank.

    Args:
        scores: Scores, whose queries and samples are matched by name and id; or a matrix of all queries of the bank.
        query_names: Of the bank.
        sample_ids: Of the bank, (samples,).
        needed: Which of these samples some retraining did without, bool (samples,): these must have a score.
        rows: What the rows of a matrix are; None where its shape says it.
        own_ids: Which training samples a matrix is about; those of the bank if None.
        effect_of: What a matrix says: what the query rises by without a sample, or with it.

    Raises:
        QueryError: Another shape, or one that may be read in two ways; queries or samples that do not fit.
    """
    if effect_of not in ("removal", "presence"):
        raise QueryError(f"effect_of must be one of removal, presence, got {effect_of!r}.")
    if isinstance(scores, Scores):
        scores.require_sums()
        if rows is not None or own_ids is not None or effect_of != "removal":
            raise QueryError("rows=, sample_ids= and effect_of= are for matrices; scores say these themselves.")
        values, ids = scores.values.numpy(), scores.sample_ids
        places = _queries_of(scores.query_names, query_names)
        values = values[[scores.query_names.index(query_names[place]) for place in places]]
    else:
        ids = sample_ids if own_ids is None else torch.as_tensor(own_ids, dtype=torch.int64).reshape(-1)
        values = _rows_are_queries(_numbers(scores), len(query_names), len(ids), rows)
        values, places = values if effect_of == "removal" else -values, list(range(len(query_names)))
    return Placed(_columns(values, ids, sample_ids, needed), places)


def _numbers(matrix: Tensor | ArrayLike) -> Array:
    array = matrix.detach().cpu().double().numpy() if isinstance(matrix, Tensor) else np.asarray(matrix)
    try:
        return np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        raise QueryError(f"Scores are hg.Scores or a matrix of numbers, got {type(matrix).__name__}.") from error


def _rows_are_queries(matrix: Array, queries: int, samples: int, rows: Rows | None) -> Array:
    """The matrix with one row a query."""
    if rows not in (None, "queries", "samples"):
        raise QueryError(f"rows must be one of queries, samples, got {rows!r}.")
    if matrix.ndim == 1 and 1 in (queries, samples):
        matrix, rows = matrix.reshape(queries, -1), "queries"
    fits = {"queries": (queries, samples), "samples": (samples, queries)}
    if rows is None and queries == samples > 1 and matrix.shape == fits["queries"]:
        raise QueryError(
            f"There are as many queries as samples, {samples:,}, so a matrix may be read in two ways. Say what its "
            f"rows are: rows='queries' or rows='samples'."
        )
    rows = rows or ("samples" if matrix.shape == fits["samples"] and queries != samples else "queries")
    if matrix.shape != fits[rows]:
        raise QueryError(
            f"The bank has {queries:,} queries and the scores are about {samples:,} samples: a matrix of shape "
            f"{fits['queries']} or {fits['samples']} was expected, got {matrix.shape}"
            + (f" with rows={rows!r}" if matrix.shape in fits.values() else "")
            + ". Name the samples of a matrix about some of them with sample_ids=."
        )
    return matrix if rows == "queries" else np.ascontiguousarray(matrix.T)


def _queries_of(names: Sequence[str], known: Sequence[str]) -> list[int]:
    places = [place for place, name in enumerate(known) if name in names]
    if not places:
        raise QueryError(
            f"The bank has the queries {', '.join(known[:SHOWN])}; these scores are about {', '.join(names[:SHOWN])}. "
            f"Score the queries of the bank, or pass the matrix scores.values if only their names differ."
        )
    return places


def _columns(values: Array, ids: Tensor, sample_ids: Tensor, needed: Tensor) -> Array:
    """The columns of the bank's samples."""
    column = {sample: place for place, sample in enumerate(ids.tolist())}
    if len(column) < len(ids):
        raise QueryError("Each sample has one score; some sample ids of these scores are the same.")
    places = [column.get(sample, -1) for sample in sample_ids.tolist()]
    without = [sample for sample, place, need in zip(sample_ids.tolist(), places, needed.tolist(), strict=True)
               if need and place < 0]  # fmt: skip
    if without:
        raise QueryError(
            f"Every sample that some retraining did without needs a score; {len(without):,} of them have none, as "
            f"{without[:SHOWN]}. Score all samples of the bank (bank.sample_ids)."
        )
    result = np.where(np.asarray(places) >= 0, values[:, places], 0.0)
    if not np.isfinite(result).all():
        row, place = np.argwhere(~np.isfinite(result))[0]
        raise QueryError(f"Scores must be finite; that of sample {int(sample_ids[place])} in row {row} is not.")
    return result
