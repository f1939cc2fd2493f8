"""Optimizer histories while they unfold: which parameters share one, and the maps of every step."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hydragrad.errors import Unsupported
from hydragrad.runs import StepRecord
from hydragrad.steps import IntervalProducts, Move, StepRule, step_map
from hydragrad.steps.rule import Age

Moves = dict[str, Move | None]
"""What one step did to every tracked parameter; None where it was skipped."""


class Ages:
    """The ages of tracked parameters, and what each step does to them.

    Args:
        rule: Of their optimizer.
        ages: At the start; parameters that are not there have made no step.
        names: The tracked parameters.

    Attributes:
        rule: Of their optimizer.
    """

    def __init__(self, rule: StepRule, ages: Mapping[str, Age], names: Sequence[str]) -> None:
        self.rule = rule
        self._ages = {name: ages.get(name, rule.age({})) for name in names}

    def take(self, record: StepRecord) -> tuple[Moves, set[str]]:
        """Take in a step; return what it did, and the parameters that are of another age after it.

        Raises:
            Unsupported: A parameter that was not there from the start.
        """
        moves: Moves = dict.fromkeys(self._ages)
        older = set()
        idle = set(record.structure.idle)
        for names, values in zip(record.structure.groups, record.options, strict=True):
            options = self.rule.read(values)
            for name in names:
                if name in idle:
                    continue
                if name not in moves:
                    raise Unsupported(
                        f"Parameter {name} was added to the optimizer at step {record.step}, after tracking began. "
                        f"Give it to the optimizer from the start (frozen, requires_grad=False, if need be)."
                    )
                at, after = self.rule.grow(self._ages[name], options)
                moves[name] = Move(options, at)
                if after != self._ages[name]:
                    self._ages[name] = after
                    older.add(name)
        return moves, older


class GrowingHistories:
    """Histories that split where the options of their parameters begin to differ; their rule has a closed form.

    Args:
        rule: Of their optimizer.
        groups: The histories at the start: parameter names.
        ages: Of the parameters, at the start.
        fixed: Histories must stay as they are, because projected columns mix the parameters of one. A parameter that
            was skipped from the start is then left out: its part of every row is zero.

    Attributes:
        groups: The histories: parameter names.
        products: The steps of all histories.
        injections: What the last step multiplies a gradient by, (histories, 1 + states).
    """

    def __init__(
        self, rule: StepRule, groups: Sequence[Sequence[str]], ages: Mapping[str, Age], *, fixed: bool
    ) -> None:
        assert rule.closed_form is not None
        size = 1 + rule.closed_form.states
        self.rule = rule
        self.groups = [tuple(names) for names in groups]
        self.products = IntervalProducts(len(self.groups), size)
        self.injections: NDArray[np.float64] = np.zeros((len(self.groups), size))
        self._ages = Ages(rule, ages, [name for names in groups for name in names])
        self._moved: set[str] = set()
        self._fixed = fixed
        self._last: tuple[object, object] | None = None
        self._maps: tuple[NDArray[np.float64], NDArray[np.float64]]

    def take(self, record: StepRecord) -> bool:
        """Take in a step; return whether histories were split.

        Raises:
            Unsupported: Histories would have to split and are fixed.
        """
        split = False
        if self._last is None or self._last[0] is not record.structure or self._last[1] != record.options:
            moves, older = self._ages.take(record)
            split = self._split(moves)
            maps = [step_map(self.rule, self._move(names, moves)) for names in self.groups]
            self._maps = np.stack([matrix for matrix, _ in maps]), np.stack([injection for _, injection in maps])
            self._moved |= {name for name, move in moves.items() if move is not None}
            # A step that changes an age may be like no other; every later one of equal options is like the last.
            self._last = None if older else (record.structure, record.options)
        matrices, self.injections = self._maps
        self.products.append(matrices)
        return split

    def _split(self, moves: Moves) -> bool:
        parted = [self._parted(names, moves) for names in self.groups]
        if all(len(parts) == 1 for parts in parted):
            return False
        if self._fixed:
            names = next(names for names, parts in zip(self.groups, parted, strict=True) if len(parts) > 1)
            raise Unsupported(
                f"Parameters of one projected group ({names[0]}, ...) no longer share their optimizer options (frozen "
                f"after they were trained, or unfrozen late where a first step is unlike others?), and a projection "
                f"can't tell them apart. Give them groups of their own, or track without projection."
            )
        self.products = self.products.split([number for number, parts in enumerate(parted) for _ in parts])
        self.groups = [part for parts in parted for part in parts]
        return True

    def _move(self, names: Sequence[str], moves: Moves) -> Move | None:
        return next((move for name in names if (move := moves[name]) is not None), None)

    def _parted(self, names: Sequence[str], moves: Moves) -> list[tuple[str, ...]]:
        """Parameters that move alike; where histories are fixed, those that never moved may be left out."""
        parts: dict[Hashable, list[str]] = {}
        for name in names:
            move = moves[name]
            if not self._fixed or name in self._moved or move is not None:
                parts.setdefault(None if move is None else self.rule.same_step(move), []).append(name)
        return [tuple(part) for part in parts.values()] or [tuple(names)]
