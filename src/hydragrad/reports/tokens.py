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
    dataset: Dataset[Any],
    samples: Iterable[int],
    pieces: Pieces,
    scores: Scores,
    query: int,
    factor: float,
    lead: Callable[[Any], str] | None = None,
) -> list[dict[str, Any] | None]:
    """Pieces of samples with their contributions to a query, in the order of the samples; None without a score.

    Contributions are multiplied by `factor`. Each has its `pieces`, their `shares` of the largest contribution in
    percent with its sign, that `largest` one, and the `places` of the pieces among the parts. Where the scores are of
    whole samples, and where a piece has no contribution, the shares are 0. With `lead` also the text before the first
    piece.

    Raises:
        PresentationError: Pieces that are no texts.
    """
    column = {sample: place for place, sample in enumerate(scores.sample_ids.tolist())}
    every = None if scores.part_contributions is None else factor * scores.part_contributions[query]

    def shown(sample: int) -> dict[str, Any]:
        texts = _pieces(dataset, sample, pieces)
        entry = _shown(texts, [0.0] * len(texts) if every is None else every[column[sample]].tolist())
        return entry if lead is None else entry | {"lead": lead(dataset[sample])}

    return [shown(sample) if sample in column else None for sample in dict.fromkeys(samples)]


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
    both = zip(pieces, values, strict=False)  # batches may have been cut to their longest sequence
    parts = [(place, piece, value if value == value else 0.0) for place, (piece, value) in enumerate(both) if piece]
    largest = max((abs(value) for *_, value in parts), default=0.0)
    shown = parts[:LONGEST]
    return {
        "pieces": [piece for _, piece, _ in shown] + (["…"] if len(parts) > LONGEST else []),
        "shares": [round(100 * value / largest) if largest else 0 for *_, value in shown],
        "places": [place for place, *_ in shown],
        "largest": float(f"{largest:.3g}"),
    }
