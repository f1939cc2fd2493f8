"""`import_labels`: decisions about labels from any of the tools; the format is found from the content."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from hydragrad.cleaning import Decided, Marks, checked_marks
from hydragrad.errors import MarksInvalid
from hydragrad.labelling.csv_table import decided_in_frame, read_table
from hydragrad.labelling.fiftyone import METADATA, decided_in_dataset
from hydragrad.labelling.label_names import LabelNames
from hydragrad.labelling.label_studio import decided_in_tasks
from hydragrad.labelling.report_marks import decided_in_report
from hydragrad.replay import Recording, labels_of
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints

READ = (
    "Labels are read from marks that the report saved (JSON), a CSV table with the columns sample and label, a JSON, "
    "JSON-MIN or CSV export of Label Studio, a folder that FiftyOne exported as FiftyOneDataset, or a CSV file of "
    "cleanlab's Datalab.get_issues('label')"
)


@in_clean_surroundings
def import_labels(
    run: Recording | Checkpoints, source: str | Path | pd.DataFrame, *, classes: Sequence[str] | None = None
) -> Marks:
    """Read which labels were decided to be wrong, with the right ones, and which to be right.

    Warns where the source does not name its run: `hg.export_suspects` and the report write its digest.

    Args:
        run: The run whose suspects were exported.
        source: A file or folder, whose format is found from its content: marks that the report saved; a CSV table with
            columns `sample` and `label` (number or name; an empty one decides nothing), as `format="csv"`; what Label
            Studio exports as JSON, JSON-MIN or CSV; a FiftyOneDataset folder, in which `ground_truth` was changed or
            samples were tagged `fixed` (the suggested label is right) or `fine`; cleanlab's
            `Datalab.get_issues("label")` as CSV, whose issues get the predicted label. Or such a table as a DataFrame.
        classes: Name of each label, as they were exported. If None, the labels that exist are those that occur.

    Returns:
        `fixed`, sample to label, `fine`, and `relabelled(run)`: the training set with these labels.

    Raises:
        MarksInvalid: No such file, another run, samples or labels that do not exist, labels that have changed since,
            decisions that contradict one another, or no label to change.
        PresentationError: `classes` calls two labels the same.
        LossError: No tensor of the batches is the label, or several are.
    """
    labels = LabelNames(() if classes else set(labels_of(run).tolist()), classes)
    if isinstance(source, pd.DataFrame):
        decided = decided_in_frame(source, labels)
    else:
        with _as_its_tool_writes_it(source):
            decided = _decided(Path(source), labels)
    return checked_marks(decided, run, labels.names.keys(), labels.names)


def _decided(path: Path, labels: LabelNames) -> Decided:
    if path.is_dir():
        if not (path / METADATA).exists():
            raise MarksInvalid(f"{path} is a folder without {METADATA}. {READ}.")
        return decided_in_dataset(path, labels)
    if not path.is_file():
        raise MarksInvalid(f"There is no file {path}. {READ}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise MarksInvalid(f"{path} can't be read as text ({error}). {READ}.") from error
    if text.lstrip()[:1] not in ("{", "["):
        return read_table(str(path), text, labels)
    body = _json(path, text)
    if isinstance(body, list):
        return decided_in_tasks(str(path), body, labels)
    if isinstance(body.get("samples"), list):
        return decided_in_dataset(path.parent, labels)
    return decided_in_report(str(path), body)


@contextmanager
def _as_its_tool_writes_it(source: object) -> Iterator[None]:
    """Turn an entry of another kind than the tool writes (a text for a list, say) into an error that names the file."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise MarksInvalid(
            f"{source} holds entries that its tool does not write ({error}). Export it again."
        ) from error


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise MarksInvalid(f"{path} is no JSON ({error}). {READ}.") from error
