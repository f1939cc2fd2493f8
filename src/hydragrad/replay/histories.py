"""A recorded run's optimizer history, by lanes."""

from collections.abc import Sequence

from hydragrad.derivatives import Layout
from hydragrad.replay.recording import Recording
from hydragrad.runs.log import StepRecord, Structure
from hydragrad.steps import Lane, SGDOptions, lanes, sgd_options


def run_lanes(run: Recording) -> list[Lane]:
    """Lanes of all parameters that some step of the run moved."""
    structures = _distinct([record.structure for record in run.steps])
    places = [_places(structure) for structure in structures]
    names = run.manifest.model["parameters"]
    seats = {name: tuple(place.get(name) for place in places) for name in names}
    numbers = {id(structure): number for number, structure in enumerate(structures)}
    known: dict[tuple[object, ...], SGDOptions] = {}
    histories = {
        seat: [_in_force(record, seat[_number(record, numbers, structures)], known) for record in run.steps]
        for seat in set(seats.values())
    }
    moved: dict[str, Sequence[SGDOptions | None]] = {
        name: histories[seat] for name, seat in seats.items() if any(histories[seat])
    }
    return lanes(moved, frozenset(run.initial.momentum))


def trained_layout(run: Recording, found: Sequence[Lane] | None = None) -> Layout:
    """Lays out the parameters that some step of the run moved, lane by lane; `found` spares finding the lanes again."""
    shapes = {name: shape for name, (shape, _) in run.manifest.model["parameters"].items()}
    return Layout({name: shapes[name] for lane in found or run_lanes(run) for name in lane.names})


def _places(structure: Structure) -> dict[str, int]:
    """Parameter group of every parameter that was not skipped."""
    idle = set(structure.idle)
    return {name: number for number, group in enumerate(structure.groups) for name in group if name not in idle}


def _in_force(record: StepRecord, group: int | None, known: dict[tuple[object, ...], SGDOptions]) -> SGDOptions | None:
    if group is None:
        return None
    values = record.options[group]
    key = tuple(values.values())
    if key not in known:
        known[key] = sgd_options(values)
    return known[key]


def _distinct(structures: Sequence[Structure]) -> list[Structure]:
    return list(dict.fromkeys(structures))


def _number(record: StepRecord, numbers: dict[int, int], structures: list[Structure]) -> int:
    number = numbers.get(id(record.structure))
    return structures.index(record.structure) if number is None else number
