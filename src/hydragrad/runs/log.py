"""The step log: what every step did, one sealed line of JSON a step, entries that did not change left out."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from hydragrad.errors import RunDamaged

LOG = "steps.jsonl"

Options = dict[str, float | bool | None]


@dataclass(frozen=True)
class Structure:
    """What rarely changes from step to step.

    Attributes:
        groups: Parameter names, by parameter group of the optimizer.
        frozen: Parameters that required no gradient.
        idle: Parameters of the optimizer that had no gradient when it stepped, and so were skipped.
        evaluating: Modules that were in eval mode.
    """

    groups: tuple[tuple[str, ...], ...]
    frozen: tuple[str, ...]
    idle: tuple[str, ...]
    evaluating: tuple[str, ...]


@dataclass(frozen=True)
class StepRecord:
    """One step of the run.

    Attributes:
        step: Counted from 0.
        indices: The samples of the batch, in their order.
        batch_seed: What random augmentation of the batch drew from.
        options: Every option in force when the optimizer stepped, by parameter group.
        structure: What rarely changes.
        norm: Norm of the first trained parameter after the step, to tell at which step a replay departs.
        loss: Loss of the batch, where the loop told it.
    """

    step: int
    indices: list[int]
    batch_seed: int
    options: tuple[Options, ...]
    structure: Structure
    norm: float
    loss: float | None


def to_line(record: StepRecord, before: StepRecord | None) -> dict[str, Any]:
    """What is written of a record, given the one before it."""
    line: dict[str, Any] = {"step": record.step, "indices": record.indices, "batch_seed": record.batch_seed}
    line |= {"norm": record.norm, "loss": record.loss}
    if before is None or before.options != record.options:
        line["options"] = list(record.options)
    if before is None or (before.structure is not record.structure and before.structure != record.structure):
        line["structure"] = asdict(record.structure)
    return line


def from_lines(lines: list[dict[str, Any]]) -> Iterator[StepRecord]:
    """Read records back.

    Raises:
        RunDamaged: Steps out of sequence.
    """
    options: tuple[Options, ...] = ()
    structure = Structure((), (), (), ())
    for step, line in enumerate(lines):
        if line["step"] != step:
            raise RunDamaged(f"The step log has step {line['step']} where step {step} belongs: lines are missing.")
        if "options" in line:
            options = tuple(line["options"])
        if "structure" in line:
            written = line["structure"]
            structure = Structure(
                groups=tuple(tuple(names) for names in written["groups"]),
                **{name: tuple(written[name]) for name in ("frozen", "idle", "evaluating")},
            )
        yield StepRecord(step, line["indices"], line["batch_seed"], options, structure, line["norm"], line["loss"])
