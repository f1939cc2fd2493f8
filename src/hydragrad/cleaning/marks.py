"""Marks of labels as the report saves them."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hydragrad.cleaning.decisions import Decided, Decision, Marks, checked_marks
from hydragrad.errors import MarksInvalid
from hydragrad.replay import Recording

FORMAT, VERSION = "hydragrad marks", 1


def read_marks(path: Path, run: Recording, labels: Collection[int]) -> Marks:
    """Read a file of marks that the report of a run saved.

    Args:
        path: JSON, as the report's "Save marks (JSON)" writes it.
        run: The run that the report was about.
        labels: The labels that exist.

    Raises:
        MarksInvalid: No file, no JSON, marks of another run, samples or labels that do not exist, or nothing to do.
    """
    return checked_marks(decided_in_report(path), run, labels)


def decided_in_report(path: Path) -> Decided:
    """The marks in a file that a report saved, before they are held to a run.

    Raises:
        MarksInvalid: No file, no JSON, or not such a file.
    """
    body = _read(path)
    return Decided(
        source=str(path),
        run=str(body.get("run")),
        decisions=tuple(_marked(path, entry) for entry in body["marks"]),
        how_to_redo="give the run whose report they were made in, or mark again in this one's: hydragrad report RUN",
    )


def _marked(path: Path, entry: Any) -> Decision:
    if not isinstance(entry, dict):
        raise MarksInvalid(f"{path}: every mark must name a sample by its number, got {json.dumps(entry)[:80]}.")
    if entry.get("mark") not in ("fixed", "fine"):
        raise MarksInvalid(
            f"{path}: the mark of sample {entry.get('sample')} must be fixed or fine, got {entry.get('mark')!r}."
        )
    return Decision(
        sample=entry.get("sample"),
        label=entry.get("label"),
        given_label=entry.get("given_label"),
        fine=entry["mark"] == "fine",
    )


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
