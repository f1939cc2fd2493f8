"""Optimizer histories while they unfold: which parameters share one, and the 2x2 maps of every step."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hydragrad.errors import Unsupported
from hydragrad.runs import StepRecord
from hydragrad.steps import IntervalProducts, SGDOptions, sgd_options, step_map

Move = tuple[SGDOptions | None, bool]
"""What one step does to a parameter: its options (None where it was skipped), and whether it made its buffer (told
apart only under dampening, which the first step alone escapes)."""


class GrowingLanes:
    """Lanes that split where the parameters of one part ways.

    Args:
        groups: The lanes at the start: parameter names.
        warm: Parameters that have a momentum buffer already.
        fixed: Lanes must stay as they are, because projected columns mix the parameters of one. A parameter that was
            skipped from the start is then passed over: its part of every row is zero.

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
        self._moved: set[str] = set()
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
            moved = {name for name, (options, _) in moves.items() if options is not None}
            made = {name for name in moved - self._born if moves[name][0].momentum}  # type: ignore[union-attr]
            self._moved |= moved
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
                    starts = options.momentum != 0 and name not in self._born
                    moves[name] = options, starts and options.dampening != 0
        return moves

    def _split(self, moves: dict[str, Move]) -> bool:
        parted = [_parted(names, moves, self._moved if self._fixed else None) for names in self.groups]
        if all(len(parts) == 1 for parts in parted):
            return False
        if self._fixed:
            names = next(names for names, parts in zip(self.groups, parted, strict=True) if len(parts) > 1)
            raise Unsupported(
                f"Parameters of one projected group ({names[0]}, ...) no longer share their optimizer options (frozen "
                f"after they were trained, or unfrozen late under dampening?), and a projection can't tell them apart. "
                f"Give them groups of their own, or track without projection."
            )
        self.products = self.products.split([lane for lane, parts in enumerate(parted) for _ in parts])
        self.groups = [part for parts in parted for part in parts]
        return True

    def _move(self, names: Sequence[str], moves: dict[str, Move]) -> Move:
        return next((moves[name] for name in names if moves[name][0] is not None), (None, False))


def _parted(names: Sequence[str], moves: dict[str, Move], moved: set[str] | None) -> list[tuple[str, ...]]:
    """Parameters that move alike; `moved` says which have moved before, where those that never did may be left out."""
    parts: dict[Move, list[str]] = {}
    for name in names:
        if moved is None or name in moved or moves[name][0] is not None:
            parts.setdefault(moves[name], []).append(name)
    return [tuple(part) for part in parts.values()] or [tuple(names)]
