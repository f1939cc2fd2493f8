"""Histories: parameters that share one rule and one sequence of options, and so one sequence of coefficients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydragrad.steps.rule import Age, Move, StepRule


@dataclass(frozen=True)
class History:
    """Parameters with one history.

    Attributes:
        names: Their names, in the model's order.
        rule: Of their optimizer.
        moves: What every step of the run did to them; None where they were skipped (no gradient, or not in the
            optimizer).
    """

    names: tuple[str, ...]
    rule: StepRule
    moves: tuple[Move | None, ...]

    @property
    def states(self) -> tuple[str, ...]:
        """Names of their state tensors."""
        names: dict[str, None] = {}
        for options in {move.options for move in self.moves if move is not None}:
            names |= dict.fromkeys(self.rule.states(options))
        return tuple(names)

    def until(self, steps: int) -> "History":
        """The history of the first steps only."""
        return History(self.names, self.rule, self.moves[:steps])


def moves(rule: StepRule, age: Age, options: Sequence[Any | None]) -> tuple[Move | None, ...]:
    """What every step does to a parameter of some age, from the options at every step (None where it is skipped)."""
    result: list[Move | None] = []
    for in_force in options:
        if in_force is None:
            result.append(None)
        else:
            at, age = rule.grow(age, in_force)
            result.append(Move(in_force, at))
    return tuple(result)


def histories(rule: StepRule, options: Mapping[str, Sequence[Any | None]], ages: Mapping[str, Age]) -> list[History]:
    """Group parameters by equal histories.

    Args:
        rule: Of their optimizer.
        options: For every parameter its options at every step, None where it was skipped.
        ages: The age of every parameter before the first step.
    """
    grouped: dict[tuple[Age, tuple[Any | None, ...]], list[str]] = {}
    interned: dict[int, tuple[Any | None, ...]] = {}
    for name, sequence in options.items():
        # Equal histories are mostly the same object: hash each object once, not each parameter's.
        same = interned.setdefault(id(sequence), tuple(sequence))
        grouped.setdefault((ages[name], same), []).append(name)
    return [History(tuple(names), rule, moves(rule, age, sequence)) for (age, sequence), names in grouped.items()]


def first_is_like_later(rule: StepRule, options: Any) -> bool:
    """Whether a parameter's first step has the closed form of its later ones under the same options."""
    first, age = rule.grow(rule.age({}), options)
    second, _ = rule.grow(age, options)
    return rule.same_step(Move(options, first)) == rule.same_step(Move(options, second))
