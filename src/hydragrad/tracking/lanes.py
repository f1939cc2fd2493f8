"""Optimizer histories while they unfold: which parameters share one, and the 2x2 maps of every step."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hydragrad.errors import Unsupported
from hydragrad.recording import StepRecord
from hydragrad.steps import IntervalProducts, SGDOptions, sgd_options, step_map

Move = tuple[SGDOptions | None, bool]
"""What one step does to a parameter: its options (None where it was skipped), and whether it made its buffer."""


class GrowingLanes:
    """Lanes that split where the parameters of one part ways.

    Args:
        groups: The lanes at the start: parameter names.
        warm: Parameters that have a momentum buffer already.
        fixed: Lanes must stay as they are, because projected columns mix the parameters of one. Skipped parameters
            are then passed over: their gradients have been zero so far.

    Attributes:
        groups: The lanes: parameter names.
        products: The history of all lanes.
        injections: What the last step multiplies a gradient by, (lanes, 2).
    """

    def __init__(self, groups: Sequence[Sequence[str]], warm: Iterable[str], *, fixed: bool) -> None:
        self.groups = [tuple(names) for names in groups]
        self.products = IntervalProducts(len(self.groups))
        self.injections: NDArray[np.float64] = np.zeros((len(self.groups), 2))
        self._born = set(warm)
        self._fixed = fixed
        self._last: tuple[object, object] | None = None
        self._maps: tuple[NDArray[np.float64], NDArray[np.float64]]

    def take(self, record: StepRecord) -> bool:
        """Take in a step; return whether lanes were split.

        Raises:
            Unsupported: Lanes would have to split and are fixed.
        """
        split = False
        if self._last is None or self._last[0] is not record.structure or self._last[1] != record.options:
            moves = self._moves(record)
            split = self._split(moves)
            chosen = [self._move(names, moves) for names in self.groups]
            maps = [step_map(options, first=first) for options, first in chosen]
            self._maps = np.stack([matrix for matrix, _ in maps]), np.stack([injection for _, injection in maps])
            made = {name for name, (_, first) in moves.items() if first}
            self._born |= made
            # The step that makes a buffer is like no other; every later one of equal options is like the last.
            self._last = None if made else (record.structure, record.options)
        matrices, self.injections = self._maps
        self.products.append(matrices)
        return split

    def _moves(self, record: StepRecord) -> dict[str, Move]:
        moves: dict[str, Move] = {name: (None, False) for names in self.groups for name in names}
        idle = set(record.structure.idle)
        for names, values in zip(record.structure.groups, record.options, strict=True):
            options = sgd_options(values)
            for name in names:
                if name not in moves:
                    raise Unsupported(
                        f"Parameter {name} came to the optimizer at step {record.step}, after tracking began. Give it "
                        f"to the optimizer from the start (frozen, requires_grad=False, if need be)."
                    )
                if name not in idle:
                    moves[name] = options, options.momentum != 0 and name not in self._born
        return moves

    def _split(self, moves: dict[str, Move]) -> bool:
        parted = [_parted(names, moves, ignore_skipped=self._fixed) for names in self.groups]
        if all(len(parts) == 1 for parts in parted):
            return False
        if self._fixed:
            names = next(names for names, parts in zip(self.groups, parted, strict=True) if len(parts) > 1)
            raise Unsupported(
                f"Parameters of one projected group ({names[0]}, ...) no longer share their optimizer options or their "
                f"momentum's start (unfrozen late?), and a projection can't tell them apart. Give them groups of "
                f"their own, or track without projection."
            )
        self.products = self.products.split([lane for lane, parts in enumerate(parted) for _ in parts])
        self.groups = [part for parts in parted for part in parts]
        return True

    def _move(self, names: Sequence[str], moves: dict[str, Move]) -> Move:
        return next((moves[name] for name in names if moves[name][0] is not None), (None, False))


def _parted(names: Sequence[str], moves: dict[str, Move], *, ignore_skipped: bool) -> list[tuple[str, ...]]:
    parts: dict[Move, list[str]] = {}
    for name in names:
        if not (ignore_skipped and moves[name][0] is None):
            parts.setdefault(moves[name], []).append(name)
    return [tuple(part) for part in parts.values()] or [tuple(names)]
