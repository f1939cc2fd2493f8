"""Marks of labels as the report saves them, in JSON; its CSV is a table like any other."""

import json
from typing import Any

from hydragrad.cleaning import Decided, Decision
from hydragrad.errors import MarksInvalid

FORMAT, VERSION = "hydragrad marks", 1

HOW_TO_REDO = "give the run whose report they were made in, or mark again in this one's: hydragrad report RUN"


def decided_in_report(source: str, body: Any) -> Decided:
    """The marks in a file that a report saved.

    Raises:
        MarksInvalid: Not such a file.
    """
    if not isinstance(body, dict) or body.get("format") != FORMAT or not isinstance(body.get("marks"), list):
        raise MarksInvalid(
            f"{source} holds no marks of a hydragrad report. Save them there: Suspects, Save marks (JSON)."
        )
    if body.get("version") != VERSION:
        raise MarksInvalid(
            f"{source} is of version {body.get('version')!r}; this hydragrad reads {VERSION}. Write the report again."
        )
    if body.get("kind", "classes") != "classes":
        raise MarksInvalid(
            f"{source} holds marks of {body['kind']}; read are those of labels, one class a sample. Correct your data "
            f"by the table: Suspects, Save marks (CSV)."
        )
    return Decided(
        source=source,
        run=str(body.get("run")),
        decisions=tuple(_marked(source, entry) for entry in body["marks"]),
        how_to_redo=HOW_TO_REDO,
    )


def _marked(source: str, entry: Any) -> Decision:
    if not isinstance(entry, dict):
        raise MarksInvalid(f"{source}: every mark must name a sample by its number, got {json.dumps(entry)[:80]}.")
    if entry.get("mark") not in ("fixed", "fine"):
        raise MarksInvalid(
            f"{source}: the mark of sample {entry.get('sample')} must be fixed or fine, got {entry.get('mark')!r}."
        )
    return Decision(
        sample=entry.get("sample"),
        label=entry.get("label"),
        given_label=entry.get("given_label"),
        fine=entry["mark"] == "fine",
    )
