"""Decisions of a person about labels, as the report saves them: which are wrong, and which are right."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydragrad.errors import MarksInvalid
from hydragrad.replay import Recording, labels_of

FORMAT, VERSION = "hydragrad marks", 1


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Decisions about samples.

    Attributes:
        fixed: The right label of each sample whose label is wrong.
        fine: Samples whose label is right.
    """

    fixed: Mapping[int, int]
    fine: tuple[int, ...]


def read_marks(path: Path, run: Recording, labels: Collection[int]) -> Marks:
    """Read a file of marks that the report of a run saved.

    Args:
        path: JSON, as the report's "Save marks (JSON)" writes it.
        run: The run that the report was about.
        labels: The labels that exist.

    Raises:
        MarksInvalid: No file, no JSON, marks of another run, samples or labels that do not exist, or nothing to do.
    """
    body = _read(path)
    entries = body["marks"]
    if body.get("run") != run.digest:
        raise MarksInvalid(
            f"{path} holds marks of another run ({str(body.get('run'))[:12]}; this one is {run.digest[:12]}). Give the "
            f"run whose report they were made in, or mark again: hydragrad report {run.path}."
        )
    recorded = labels_of(run)
    fixed: dict[int, int] = {}
    fine: list[int] = []
    for entry in entries:
        sample, label = _sample(path, entry, len(recorded)), entry.get("label")
        if sample in fixed or sample in fine:
            raise MarksInvalid(f"{path} marks sample {sample} twice. Keep one of its marks.")
        if entry.get("given_label") != int(recorded[sample]):
            raise MarksInvalid(
                f"{path} says that sample {sample} carries label {entry.get('given_label')!r}; in this run it is "
                f"{int(recorded[sample])}. The labels have changed since: mark again."
            )
        if entry.get("mark") == "fine":
            fine.append(sample)
        elif entry.get("mark") != "fixed":
            raise MarksInvalid(f"{path}: the mark of sample {sample} must be fixed or fine, got {entry.get('mark')!r}.")
        elif not isinstance(label, int) or isinstance(label, bool) or label not in labels:
            known = sorted(labels)
            raise MarksInvalid(
                f"{path} gives sample {sample} the label {label!r}, which does not exist; there are "
                f"{', '.join(map(str, known[:12]))}{' …' if len(known) > 12 else ''}."
            )
        else:
            fixed[sample] = label
    if not fixed:
        raise MarksInvalid(f"{path} marks no label as fixed ({len(fine):,} as fine), so there is nothing to change.")
    return Marks(fixed=fixed, fine=tuple(fine))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MarksInvalid(f"There is no file {path}. Save one in the report: Suspects, Save marks (JSON).")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise MarksInvalid(
            f"{path} is no JSON ({error}). Save it in the report: Suspects, Save marks (JSON)."
        ) from error
    if not isinstance(body, dict) or body.get("format") != FORMAT or not isinstance(body.get("marks"), list):
        raise MarksInvalid(
            f"{path} holds no marks of a hydragrad report. Save them there: Suspects, Save marks (JSON)."
        )
    if body.get("version") != VERSION:
        raise MarksInvalid(
            f"{path} is of version {body.get('version')!r}; this hydragrad reads {VERSION}. Write the report again."
        )
    return body


def _sample(path: Path, entry: Any, length: int) -> int:
    sample = entry.get("sample") if isinstance(entry, dict) else None
    if not isinstance(sample, int) or isinstance(sample, bool):
        raise MarksInvalid(f"{path}: every mark must name a sample by its number, got {json.dumps(entry)[:80]}.")
    if not 0 <= sample < length:
        raise MarksInvalid(f"{path} marks sample {sample}; the run was trained on samples 0 to {length - 1:,}.")
    return sample
