"""From the mean over training of what a model returned to the evidence against each target, by kind of target.

y is the target, m the mean over checkpoints of the output (probabilities p where targets are classes).

    values       |y - m| over the spread of y - m in its column (median absolute deviation); of several columns the root
                 mean square, and the column where it is largest is shown
    multi-label  the largest, over the classes, of the probability of the other answer less that of the given one
    positions    largest probability of another class less that of the given one, mean over the quarter of the positions
                 that count with the strongest evidence: one wrong token is not diluted, one pixel not decisive. Shown
                 are the share of positions that disagree and the position with the strongest evidence
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.derivatives import Target

STRONGEST = 0.25
"""Share of a sample's positions, those with the strongest evidence, that the evidence against it is the mean of.

Chosen among one position, 0.1, 0.25, 0.5 and all on seed 0 of pixels and tokens (`python -m studies targets`)."""


RESIDUALS = 3.0
"""Evidence from which a value counts as suspect where nobody says how many: median absolute deviations."""


@dataclass
class Block:
    """Some samples, summed over checkpoints until it is finished.

    Attributes:
        output: Values or probabilities (samples, ...).
        target: (samples, ...).
        counted: Which elements of the target the loss counts.
        losses: Of the last checkpoint that was added, (samples,).
        squares: Of the values, summed.
    """

    output: Tensor
    target: Tensor
    counted: Tensor
    losses: Tensor
    squares: Tensor | None = None

    def add(self, other: "Block") -> None:
        """Add another checkpoint's output; its losses replace the earlier ones."""
        self.squares = (self.output.square() if self.squares is None else self.squares) + other.output.square()
        self.output, self.losses = self.output + other.output, other.losses

    def finished(self, count: int, target: Target) -> "Block":
        """The mean over `count` checkpoints; of positions only what the evidence needs."""
        mean = self.output / count
        squares = mean.square() if self.squares is None else self.squares / count
        if target.kind == "positions":
            return Block(*_reduced(mean, self.target, self.counted, target.shift), self.losses)
        spread = (squares - mean.square()).clamp(min=0).sqrt()
        return Block(mean, self.target, self.counted, self.losses, spread)


class Evidence(NamedTuple):
    """Evidence and columns, each (samples,)."""

    against: Tensor
    columns: dict[str, Tensor]


def values(blocks: Sequence[Block]) -> Evidence:
    """Evidence against values."""
    target, mean, counted, spread = _joined(blocks)
    residual = torch.where(counted, target - mean, torch.nan)
    centre = residual.nanmedian(0).values
    scale = (residual - centre).abs().nanmedian(0).values
    scale = torch.where(scale > 0, scale, residual.abs().nanmean(0).clamp(min=torch.finfo(torch.float64).tiny))
    relative = (residual / scale).abs().nan_to_num(0.0)
    against = (relative.square().sum(1) / counted.sum(1).clamp(min=1)).sqrt()
    worst = relative.argmax(1, keepdim=True)
    columns = {
        "given_target": target.gather(1, worst)[:, 0],
        "suggested_target": mean.gather(1, worst)[:, 0],
        "residual": residual.gather(1, worst)[:, 0],
        "spread": spread.gather(1, worst)[:, 0],
        "loss": torch.cat([block.losses for block in blocks]),
    }
    return Evidence(against, _with_place("column", worst, target.shape[1], columns))


def several_labels(blocks: Sequence[Block]) -> Evidence:
    """Evidence against one of several labels of a sample: 0 or 1 for every class."""
    target, mean, counted, _ = _joined(blocks)
    own = torch.where(target == 1, mean, 1 - mean)
    against = torch.where(counted, 1 - 2 * own, -1.0)
    strongest, worst = against.max(1, keepdim=True)
    given = target.gather(1, worst)[:, 0].long()
    columns = {
        "given_target": given,
        "suggested_target": torch.where(strongest[:, 0] > 0, 1 - given, given),
        "disagree": (against > 0).sum(1),
        "loss": torch.cat([block.losses for block in blocks]),
    }
    return Evidence(strongest[:, 0], _with_place("class", worst, target.shape[1], columns))


def positions(blocks: Sequence[Block]) -> Evidence:
    """Evidence against classes at positions."""
    own = torch.cat([block.output for block in blocks])  # against, share, strongest, place, given, suggested
    mean, share, strongest, place, given, suggested = own.unbind(1)
    columns = {
        "given_target": given.long(),
        "suggested_target": suggested.long(),
        "position": place.long(),
        "strongest": strongest,
        "disagree": share,
        "loss": torch.cat([block.losses for block in blocks]),
    }
    return Evidence(mean, columns)


def _reduced(mean: Tensor, target: Tensor, counted: Tensor, shift: int) -> tuple[Tensor, Tensor, Tensor]:
    """Six numbers a sample of mean probabilities (samples, positions..., classes): those that `positions` names.

    The place is counted in the batch's tensor, which a loss may compare with outputs `shift` positions earlier.
    """
    probabilities, counts = mean.flatten(1, -2), counted.flatten(1)
    given = torch.where(counts, target.flatten(1).long(), 0)[..., None]
    own = probabilities.gather(-1, given)[..., 0]
    other, suggested = probabilities.scatter(-1, given, -torch.inf).max(-1)
    against = torch.where(counts, other - own, -1.0)
    number = counts.sum(1).clamp(min=1)
    first = (number * STRONGEST).ceil().clamp(min=1)[:, None]
    ordered = against.sort(1, descending=True).values
    total = torch.where(torch.arange(counts.shape[1]) < first, ordered, 0.0).sum(1) / first[:, 0]
    none = ~counts.any(1)
    strongest, place = against.max(1)
    suggested = torch.where(
        strongest > 0, suggested.gather(1, place[:, None])[:, 0], given[:, :, 0].gather(1, place[:, None])[:, 0]
    )
    share = (counts & (against > 0)).sum(1) / number
    parts = [
        torch.where(none, -1.0, total),
        share,
        strongest,
        place + shift,
        given[:, :, 0].gather(1, place[:, None])[:, 0],
        suggested,
    ]
    return torch.stack([part.double() for part in parts], 1), target, counted


def _joined(blocks: Sequence[Block]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Targets, means, which count, and spreads of all samples, each (samples, columns)."""
    parts = [(block.target.double(), block.output, block.counted, block.squares) for block in blocks]
    target, mean, counted, spread = (
        torch.cat([part.flatten(1) if part.dim() > 1 else part[:, None] for part in column if part is not None])
        for column in zip(*parts, strict=True)
    )
    return target, mean, counted, spread


def _with_place(name: str, worst: Tensor, width: int, columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the place that is shown, where there are several."""
    return columns if width == 1 else {name: worst[:, 0], **columns}
