"""Texts whose parts are shown with their contributions."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch.utils.data import Dataset

from hydragrad.errors import PresentationError
from hydragrad.randomness import preserved, reseed_everything
from hydragrad.scores import Scores

Pieces = Callable[[Any], Sequence[str]]
"""Of an item: the text of every part, "" where there is none."""

LONGEST = 600
"""Parts of a sample that are shown."""


def tokens(
    dataset: Dataset[Any], samples: Iterable[int], pieces: Pieces, scores: Scores, query: int, factor: float
) -> list[dict[str, Any] | None]:
    """Pieces of samples with their contributions to a query, in the order of the samples; None without a score.

    Contributions are multiplied by `factor`. Each has its `pieces`, their `shares` of the largest contribution in
    percent with its sign, and that `largest` one.

    Raises:
        PresentationError: Pieces that are no texts.
    """
    assert scores.part_contributions is not None
    column = {sample: place for place, sample in enumerate(scores.sample_ids.tolist())}
    every = factor * scores.part_contributions[query]
    return [
        _shown(_pieces(dataset, sample, pieces), every[column[sample]].tolist()) if sample in column else None
        for sample in dict.fromkeys(samples)
    ]


def _pieces(dataset: Dataset[Any], sample: int, pieces: Pieces) -> list[str]:
    with preserved():
        reseed_everything(0)  # as the sample itself is shown
        texts = list(pieces(dataset[sample]))
    if any(not isinstance(text, str) for text in texts):
        raise PresentationError(
            f"pieces(item) must return the text of every part, a list of str; of sample {sample} it returned "
            f"{texts[:3]}. Decode every token by itself."
        )
    return texts


def _shown(pieces: Sequence[str], values: Sequence[float]) -> dict[str, Any]:
    pairs = [(piece, value) for piece, value in zip(pieces, values, strict=False) if piece and value == value]
    largest = max((abs(value) for _, value in pairs), default=0.0)
    shown = pairs[:LONGEST]
    return {
        "pieces": [piece for piece, _ in shown] + (["…"] if len(pairs) > LONGEST else []),
        "shares": [round(100 * value / largest) if largest else 0 for _, value in shown],
        "largest": float(f"{largest:.3g}"),
    }
