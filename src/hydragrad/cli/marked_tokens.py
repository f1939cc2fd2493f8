"""Texts in a terminal, their tokens coloured by contribution; the strongest also in brackets, with their numbers."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.text import Text
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.cli.console import columns
from hydragrad.cli.terminal_texts import LONGEST, one_line
from hydragrad.scores import Amounts, Scores, amounts_of

VISIBLE_SPACE = "␣"
"""Of a token in brackets."""

IN_BRACKETS = 3
"""Tokens of a text whose contributions are shown as numbers."""

Shades = tuple[str, str, str]

HELPS: Shades = ("#dcebf7", "#9fcbea", "#5aa5d6")
HARMS: Shades = ("#fde8d4", "#f7bd8a", "#ec8f47")
LOSSES: Shades = ("#f1f3f4", "#dadce0", "#bdc1c6")
"""Backgrounds of tokens, by the third of the text's largest contribution that theirs is in."""


def marked(
    pieces: Sequence[str],
    values: Sequence[float],
    *,
    number: str = "+.2g",
    positive: Shades = HELPS,
    longest: int = LONGEST,
) -> Text:
    """Return a text in one line with its tokens coloured, and the strongest in brackets with their numbers.

    Args:
        pieces: Text of every token, "" where there is none.
        values: Contribution of every token; NaN where it has none, as in a prompt.
        number: Format of the strongest tokens' numbers.
        positive: Backgrounds of positive values; those of negative ones are HARMS.
        longest: Characters of the tokens that are shown; of a longer text, those around the strongest token.
    """
    both = zip(pieces, values, strict=True)
    tokens = [(one_line(piece), value if value == value else 0.0) for piece, value in both if piece]
    strongest = sorted(range(len(tokens)), key=lambda place: -abs(tokens[place][1]))[:IN_BRACKETS]
    largest = abs(tokens[strongest[0]][1]) if strongest else 0.0
    first, last = _shown([len(piece) for piece, _ in tokens], strongest[0] if strongest else 0, longest)
    line = Text("…" if first > 0 else "")
    for place in range(first, last):
        piece, value = tokens[place]
        if place in strongest and value:
            piece = f"[{piece.replace(' ', VISIBLE_SPACE)} {value:{number}}]"
        line.append(piece, style=_style(value, largest, positive))
    return line.append("…") if last < len(tokens) else line


def show_tokens(
    pieces: Callable[[Any], Sequence[str]], train_set: Dataset[Any], scores: Scores, samples: Sequence[int]
) -> None:
    """Print training sequences with the contributions of their tokens to the first query."""
    amounts = amounts_of(scores, 0)
    texts = marked_samples(pieces, train_set, scores, samples, amounts)
    rows = [(str(i), amounts.text(value), line) for i, value, line in texts]
    title = "tokens: + helps, - harms; those in brackets are the strongest of their text"
    columns(title, ("sample", "contribution", "text"), rows, left={"text"})


def marked_samples(
    pieces: Callable[[Any], Sequence[str]],
    train_set: Dataset[Any],
    scores: Scores,
    samples: Sequence[int],
    amounts: Amounts,
) -> list[tuple[int, float, Text]]:
    """Samples, each with its contribution to the first query and its text, whose tokens' numbers are `amounts`."""
    assert scores.part_contributions is not None
    every = amounts.factor * scores.part_contributions
    place = {sample: number for number, sample in enumerate(scores.sample_ids.tolist())}
    return [
        (i, float(scores.values[0, place[i]]), marked(*_aligned(pieces(train_set[i]), every[0, place[i]])))
        for i in samples
    ]


def _aligned(pieces: Sequence[str], values: Tensor) -> tuple[Sequence[str], list[float]]:
    """Pieces and values of the places that both have: batches may have been cut to their longest sequence."""
    count = min(len(pieces), len(values))
    return pieces[:count], values[:count].tolist()


def _shown(lengths: Sequence[int], strongest: int, longest: int) -> tuple[int, int]:
    """Which tokens are shown: all where they fit, else as many as do, the strongest in their middle."""
    first = last = min(strongest, len(lengths))
    total = 0
    while first > 0 or last < len(lengths):
        before = last >= len(lengths) or (first > 0 and strongest - first < last - strongest)
        total += lengths[first - 1] if before else lengths[last]
        if total > longest:
            break
        first, last = (first - 1, last) if before else (first, last + 1)
    return first, last


def _style(value: float, largest: float, positive: Shades) -> str:
    if not largest or not value:
        return ""
    shades = positive if value > 0 else HARMS
    return f"#202124 on {shades[min(len(shades) - 1, int(len(shades) * abs(value) / largest))]}"
