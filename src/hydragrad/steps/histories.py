"""Lanes: parameters that share one optimizer history, and so one sequence of coefficients."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydragrad.steps.sgd import SGDOptions


@dataclass(frozen=True)
class Lane:
    """Parameters with one history.

    Attributes:
        names: Their names, in the model's order.
        options: The options at every step of the run; None where the parameters were skipped (no gradient,
            or not in the optimizer).
        first: True at the step that created the momentum buffer.
    """

    names: tuple[str, ...]
    options: tuple[SGDOptions | None, ...]
    first: tuple[bool, ...]


def lanes(histories: dict[str, Sequence[SGDOptions | None]], warm: frozenset[str]) -> list[Lane]:
    """Group parameters by equal histories.

    Args:
        histories: For every parameter its options at every step, None where it was skipped.
        warm: Parameters whose momentum buffer existed before the first step.
    """
    grouped: dict[tuple[bool, tuple[SGDOptions | None, ...]], list[str]] = {}
    interned: dict[int, tuple[SGDOptions | None, ...]] = {}
    for name, history in histories.items():
        # Equal histories are mostly the same object: hash each object once, not each parameter's.
        options = interned.setdefault(id(history), tuple(history))
        grouped.setdefault((name in warm, options), []).append(name)
    return [
        Lane(tuple(names), options, _buffer_births(options, warm=is_warm))
        for (is_warm, options), names in grouped.items()
    ]


def _buffer_births(options: Sequence[SGDOptions | None], *, warm: bool) -> tuple[bool, ...]:
    births = [False] * len(options)
    if not warm:
        for step, in_force in enumerate(options):
            if in_force is not None and in_force.momentum != 0:
                births[step] = True
                break
    return tuple(births)
