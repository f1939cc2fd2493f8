"""Facts about the run, as names and values."""

from collections.abc import Mapping
from math import prod
from typing import Any

from hydragrad.replay import Recording
from hydragrad.reports.wording import counted, number
from hydragrad.runs.log import Options
from hydragrad.steps.rule import TENSOR

ELSEWHERE = ("model", "seed")
"""Settings of the command line that are among the recording's own facts."""


def run_facts(run: Recording) -> tuple[tuple[str, str], ...]:
    """What was trained, how, and on what."""
    manifest, machine = run.manifest, run.manifest.machine
    parameters = sum(prod(shape) for shape, _ in manifest.model["parameters"].values())
    first, last = run.steps[0].options, run.steps[-1].options
    facts = [
        ("Run", run.path.name),
        ("Model", manifest.model["class"]),
        ("Parameters", f"{parameters:,}"),
        ("Training samples", f"{manifest.data['length']:,}"),
        ("Steps", f"{len(run.steps):,}" + ("" if run.completed else " (interrupted)")),
    ]
    for group, (begin, end) in enumerate(zip(first, last, strict=False)):
        rule = run.rules[run.steps[0].structure.owner(group)]
        name = f"{rule.torch_class.__name__} options" + (f", group {group}" if len(first) > 1 else "")
        facts.append((name, _options(begin, end)))
    facts += [
        ("Loss of a batch", f"{manifest.reduction} of the per-sample losses"),
        ("Seed", str(manifest.seed)),
        *(
            (name.replace("_", " ").capitalize(), str(value))
            for name, value in _flat(manifest.about).items()
            if name not in ELSEWHERE
        ),
        (
            "Software",
            f"hydragrad {machine['hydragrad']}, torch {machine['torch']}, Python {machine['python']}",
        ),
        ("Machine", f"{machine['processor']}; {machine['device']}; {counted(machine['threads'], 'thread')}"),
    ]
    return tuple(facts)


def _options(first: Options, last: Options) -> str:
    """Options that are in force, with their values at the first and the last step where those differ."""
    changed = {name: (value, last.get(name, value)) for name, value in first.items()}
    return "; ".join(
        f"{name} {_value(begin)}" + (f" → {_value(end)}" if begin != end else "")
        for name, (begin, end) in changed.items()
        if begin or end
    )


def _value(value: Any) -> str:
    if isinstance(value, tuple) and value[:1] == (TENSOR,):
        return number(value[2])
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) or value is None else number(value)


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of nested mappings next to the others; those that were not set are left out."""
    flat: dict[str, Any] = {}
    for name, value in about.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return {name: value for name, value in flat.items() if value is not None}
