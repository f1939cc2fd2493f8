"""A table of suspects whose column `label` a person or a script fills in; issues of cleanlab are read as well."""

from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from hydragrad.cleaning import NOT_STATED, Decided, Decision
from hydragrad.disk import replace_file
from hydragrad.errors import MarksInvalid
from hydragrad.labelling.exported import MEASURED, Exported
from hydragrad.labelling.label_names import LabelNames, whole

HOW_TO_REDO = "fill in the column label of a table of this run: hydragrad export RUN --to csv"
HELPFUL = (
    "A table needs the columns sample and label, as `hydragrad export RUN --to csv` writes them, or is_label_issue and "
    "predicted_label, as cleanlab's Datalab.get_issues('label') has them."
)
DELIMITERS = ",;\t"
"""What spreadsheets write between cells."""


def write_table(exported: Exported, file: Path) -> None:
    """Write a CSV file, one line a suspect, whose column `label` is empty."""
    table = pd.DataFrame([_row(exported, suspect) for suspect in exported.suspects])
    table["run"] = exported.run.digest
    replace_file(file, lambda to: table.to_csv(to, index=False, encoding="utf-8"))


def _row(exported: Exported, suspect: Any) -> dict[str, Any]:
    return {
        "sample": suspect.sample,
        "label": "",
        "given_label": suspect.given,
        "given_name": _cell(exported.name(suspect.given)),
        "suggested_label": suspect.suggested,
        "suggested_name": _cell(exported.name(suspect.suggested)),
        **{name: suspect.measured.get(name) for name in MEASURED if name in exported.suspects[0].measured},
    }


def _cell(text: str | None) -> str:
    """No cell starts a formula in a spreadsheet."""
    return "" if text is None else f"'{text}" if text[:1] in "=+-@\t\r" and text else text


def read_table(source: str, text: str, labels: LabelNames) -> Decided:
    """The decisions in a CSV file.

    Raises:
        MarksInvalid: No such table.
    """
    delimiter = max(DELIMITERS, key=text.split("\n", 1)[0].count)
    try:
        table = pd.read_csv(StringIO(text), sep=delimiter, dtype=str, keep_default_na=False, index_col=False)
    except ValueError as error:  # pandas' own errors are of this kind
        raise MarksInvalid(f"{source} is no CSV file ({error}). {HELPFUL}") from error
    return decided_in_rows(source, _rows(table), labels)


def decided_in_frame(frame: pd.DataFrame, labels: LabelNames) -> Decided:
    """The decisions in a data frame: a column `label`, or issues of cleanlab, whose index is the sample."""
    if "sample" not in frame:
        frame = frame.rename_axis("sample").reset_index()
    return decided_in_rows("The table", _rows(frame.astype(object).where(frame.notna(), "")), labels)


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name).strip(): value for name, value in row.items()} for row in table.to_dict("records")]


def decided_in_rows(source: str, rows: Iterable[dict[str, Any]], labels: LabelNames) -> Decided:
    """The decisions in rows by column; cells that are empty decide nothing.

    Raises:
        MarksInvalid: Columns are missing, or the rows are about several runs.
    """
    rows = list(rows)
    columns = {name for row in rows for name in row}
    if {"is_label_issue", "predicted_label"} <= columns:
        rows, columns = _issues(rows, labels), {"sample", "label"}
    if not {"sample", "label"} <= columns:
        held = ", ".join(sorted(columns)[:12]) or "no rows"
        raise MarksInvalid(f"{source} holds {held}. {HELPFUL}")
    decided = [row for row in rows if not _empty(row.get("label"))]
    runs = {str(row["run"]) for row in decided if not _empty(row.get("run"))}
    if len(runs) > 1:
        raise MarksInvalid(f"{source} is about {len(runs)} runs. Read the lines of each one on their own.")
    for row in decided:
        name = row.get("given_name", row.get("given"))  # "given" in Label Studio's tasks
        labels.require_called(source, whole(row.get("given_label")), _without_guard(name))
    decisions = distinct(_decision(row, labels) for row in decided)
    return Decided(source=source, run=next(iter(runs), None), decisions=decisions, how_to_redo=HOW_TO_REDO)


def distinct(decisions: Iterable[Decision]) -> tuple[Decision, ...]:
    """Each decision once: annotators who agree decide once. Cells of a damaged file may not be hashable."""
    return tuple({repr(decision): decision for decision in decisions}.values())


def _issues(rows: list[dict[str, Any]], labels: LabelNames) -> list[dict[str, Any]]:
    """Rows of Datalab.get_issues("label"): the sample is the index, which pandas writes without a name."""
    return [
        {
            "sample": row.get("sample", row.get("Unnamed: 0")),
            "label": row["predicted_label"] if str(row["is_label_issue"]).strip().lower() in ("true", "1") else "",
            "given_label": labels.number(row.get("given_label", "")),
            "run": row.get("run", ""),
        }
        for row in rows
    ]


def _decision(row: dict[str, Any], labels: LabelNames) -> Decision:
    given = row.get("given_label")
    return Decision(
        sample=whole(row["sample"]),
        label=labels.number(_without_guard(row["label"])),
        given_label=NOT_STATED if _empty(given) else whole(given),
    )


def _without_guard(value: Any) -> Any:
    """A cell without the apostrophe that keeps it from starting a formula."""
    return value[1:] if isinstance(value, str) and value[:1] == "'" and value[1:2] in "=+-@" and value[1:] else value


def _empty(value: Any) -> bool:
    return (
        value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value)
    )
