"""A recorded run's optimizer histories."""

from collections.abc import Collection, Hashable, Sequence
from typing import Any

from hydragrad.derivatives import Layout
from hydragrad.errors import Unsupported
from hydragrad.replay.recording import Recording
from hydragrad.replay.trajectory import StateNames
from hydragrad.runs.log import StepRecord, Structure, require_frozen_skipped
from hydragrad.steps import History, Part, histories


def run_histories(run: Recording) -> list[History]:
    """Histories of all parameters that some step of the run moved.

    Raises:
        Unsupported: A step moved a frozen parameter.
    """
    structures = list(dict.fromkeys(record.structure for record in run.steps))
    for structure in structures:
        require_frozen_skipped(structure)
    names = run.manifest.model["parameters"]
    groups = {name: tuple(structure.group_of.get(name) for structure in structures) for name in names}
    numbers = {id(structure): number for number, structure in enumerate(structures)}
    in_force = _InForce(run)
    options = {
        every: [in_force(record, every[_number(record, numbers, structures)]) for record in run.steps]
        for every in set(groups.values())
    }
    moved = {name: options[every] for name, every in groups.items() if any(options[every])}
    _require_clipped_trained(run, moved)
    state, owners = run.initial.optimizer, _owners(structures)
    known = []
    for number, rule in enumerate(run.rules):
        own = {name: every for name, every in moved.items() if owners[name] == number}
        known += histories(rule, own, {name: rule.age(state.get(name, {})) for name in own})
    return known


def _require_clipped_trained(run: Recording, trained: Collection[str]) -> None:
    """Refuse clipping by norms that took gradients of parameters into account that no step moved.

    Raises:
        Unsupported: Names one.
    """
    transforms = {transform for record in run.steps if record.transformed for transform in record.transforms}
    outside = [name for transform in transforms for name in transform.names if name not in trained]
    if outside:
        raise Unsupported(
            f"Gradients were clipped together with that of {outside[0]}, which no optimizer moved, so it has no "
            f"derivative here. Freeze such parameters (requires_grad_(False)), or clip those of the optimizer only."
        )


def _owners(structures: Sequence[Structure]) -> dict[str, int]:
    """The number of every trained parameter's optimizer.

    Raises:
        Unsupported: A parameter went from one optimizer to another.
    """
    owners: dict[str, int] = {}
    for structure in structures:
        for name, group in structure.group_of.items():
            if owners.setdefault(name, structure.owner(group)) != structure.owner(group):
                raise Unsupported(
                    f"{name} went from one optimizer to another during the run, whose states don't follow each other. "
                    f"Record the two parts as runs of their own."
                )
    return owners


def trained_layout(run: Recording, known: Sequence[History] | None = None) -> Layout:
    """Lays out the parameters that some step of the run moved, history by history; `known` spares working them out."""
    shapes = {name: shape for name, (shape, _) in run.manifest.model["parameters"].items()}
    return Layout({name: shapes[name] for history in known or run_histories(run) for name in history.names})


def has_closed_form(run: Recording, known: Sequence[History]) -> bool:
    """Whether the run without curvature is a sum over its steps: each a known coefficient times a gradient."""
    rules = all(history.rule.closed_form is not None for history in known)
    return rules and not any(record.transformed for record in run.steps)


def state_names(known: Sequence[History]) -> tuple[StateNames, ...]:
    """What torch calls the state tensors of every parameter, in the order of its rule: as many as any has."""
    count = max((len(history.states) for history in known), default=0)
    return tuple(
        {name: history.states[number] for history in known if number < len(history.states) for name in history.names}
        for number in range(count)
    )


def parts_of(known: Sequence[History], weights: Layout, step: int) -> list[Part]:
    """What a step moved: histories, or the parameters of one where their rule takes whole parameters."""
    parts = []
    for history in known:
        move = history.moves[step]
        if move is None:
            continue
        if history.rule.elementwise:
            parts.append(Part(weights.span(history.names), history.rule, move))
        else:
            parts += [
                Part(weights.spans[name], history.rule, move, tuple(weights.shapes[name])) for name in history.names
            ]
    return parts


class _InForce:
    """The options of a parameter group at a step, in the rule's own terms; equal ones are one object."""

    def __init__(self, run: Recording) -> None:
        self._rules = run.rules
        self._known: dict[tuple[Hashable, ...], Any] = {}

    def __call__(self, record: StepRecord, group: int | None) -> Any | None:
        if group is None:
            return None
        values, owner = record.options[group], record.structure.owner(group)
        key = (owner, *values.values())
        if key not in self._known:
            self._known[key] = self._rules[owner].read(values)
        return self._known[key]


def _number(record: StepRecord, numbers: dict[int, int], structures: list[Structure]) -> int:
    number = numbers.get(id(record.structure))
    return structures.index(record.structure) if number is None else number
