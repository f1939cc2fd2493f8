"""Label Studio: tasks with the suggested label as prediction, a labelling config, and the annotations in an export.

Source: Label Studio's documentation, "Label Studio Task Format" and "Import pre-annotated data" (labelstud.io/guide).
"""

import base64
import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from hydragrad.cleaning import NOT_STATED, Decided, Decision
from hydragrad.disk import make_folder, replace_file
from hydragrad.errors import MarksInvalid, PresentationError
from hydragrad.labelling.csv_table import decided_in_rows, distinct
from hydragrad.labelling.exported import Exported, Suspect
from hydragrad.labelling.label_names import LabelNames, whole
from hydragrad.reports.rendering import Rendered

TASKS, CONFIG = "tasks.json", "config.xml"
CHOICE, SHOWN = "label", "shown"
"""Names of the config's tags: what is chosen, and of what."""

WIDEST = "512px"
"""Of a picture; it is enlarged to so much, and can be zoomed."""

HOW_TO_REDO = "import tasks of this run and export what was annotated: hydragrad export RUN --to label-studio"


def write_tasks(exported: Exported, folder: Path) -> None:
    """Write tasks.json, to be imported, and config.xml, to be pasted as the labelling interface's code.

    Raises:
        PresentationError: `render` returned what can't be shown, or pictures of some samples and texts of others.
    """
    views = list(exported.views())
    kinds = dict.fromkeys(_kind(view) for view in views)
    if len(kinds) > 1:
        raise PresentationError(
            f"A project of Label Studio shows samples of one kind, an image, a text or a table; these are shown as "
            f"{' and '.join(kinds)}. Pass render=..., which shows all of them alike."
        )
    tasks = [_task(exported, suspect, view) for suspect, view in zip(exported.suspects, views, strict=True)]
    make_folder(folder)
    text, config = json.dumps(tasks, indent=1, ensure_ascii=False), _config(exported, *kinds)
    replace_file(folder / TASKS, lambda to: to.write_text(text, encoding="utf-8"))
    replace_file(folder / CONFIG, lambda to: to.write_text(config, encoding="utf-8"))


def _task(exported: Exported, suspect: Suspect, view: Rendered) -> dict[str, Any]:
    suggested = exported.name(suspect.suggested)
    data = {
        _kind(view): _shown(view, suspect.sample),
        "sample": suspect.sample,
        "given_label": suspect.given,
        "given": exported.name(suspect.given),
        "suggested": suggested,
        **suspect.measured,
        "run": exported.run.digest,
    }
    if suggested is None:
        return {"data": data}
    choice = {"from_name": CHOICE, "to_name": SHOWN, "type": "choices", "value": {"choices": [suggested]}}
    prediction = {"model_version": "hydragrad", "score": suspect.rank_score, "result": [{"id": CHOICE, **choice}]}
    return {"data": data, "predictions": [prediction]}


def _kind(view: Rendered) -> str:
    """Name of the task's entry that is shown."""
    return "table" if isinstance(view, dict) else "text" if isinstance(view, str) or view is None else "image"


def _shown(view: Rendered, sample: int) -> Any:
    if view is None:
        return f"sample {sample}"
    if isinstance(view, str | dict):
        return view
    file = BytesIO()
    Image.fromarray(view).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _config(exported: Exported, kind: str) -> str:
    view = ElementTree.Element("View")
    suggests = any(suspect.suggested is not None for suspect in exported.suspects)
    # A full stop after a variable would be read as a part of its name.
    suggestion = " – suggested: $suggested" if suggests else ""
    ElementTree.SubElement(view, "Header", value=f"Sample $sample – given: $given{suggestion}", size="5")
    choices = ElementTree.SubElement(
        view, "Choices", name=CHOICE, toName=SHOWN, choice="single-radio", showInline="true", required="true"
    )
    for name in exported.labels.names.values():
        ElementTree.SubElement(choices, "Choice", value=name)
    # Below the choices, which a large picture would push off the screen.
    tags = {"image": "Image", "text": "Text", "table": "Table"}
    size = {"maxWidth": WIDEST} if kind == "image" else {}
    ElementTree.SubElement(view, tags[kind], {"name": SHOWN, "value": f"${kind}", **size})
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def decided_in_tasks(source: str, tasks: Iterable[Any], labels: LabelNames) -> Decided:
    """The annotations in an export, JSON or JSON-MIN; predictions, drafts and skipped tasks decide nothing.

    Raises:
        MarksInvalid: Other tasks than those of `write_tasks`, or several choices for one sample.
    """
    tasks = list(tasks)
    if not all(isinstance(task, Mapping) for task in tasks):
        raise MarksInvalid(f"{source} must be a list of tasks, as Label Studio exports them. {HOW_TO_REDO}.")
    if any(isinstance(task.get("data"), Mapping) for task in tasks):
        return _decided(source, tasks, labels)
    for task in tasks:
        if not isinstance(task.get(CHOICE, ""), str | int):
            raise MarksInvalid(f"{source} gives sample {task.get('sample')!r} several labels. Choose one.")
    return decided_in_rows(source, tasks, labels)


def _decided(source: str, tasks: list[Any], labels: LabelNames) -> Decided:
    decisions: list[Decision] = []
    runs: dict[str, Any] = {}
    for task in tasks:
        data = task.get("data")
        if not isinstance(data, Mapping) or "sample" not in data:
            raise MarksInvalid(
                f"{source} holds a task without its sample, as other projects' tasks are (task {task.get('id')}). To "
                f"read it, {HOW_TO_REDO}."
            )
        for label in _choices(source, task, data["sample"]):
            given = whole(data.get("given_label", NOT_STATED))
            labels.require_called(source, given, data.get("given"))
            decisions.append(Decision(sample=whole(data["sample"]), label=labels.number(label), given_label=given))
            runs[str(data.get("run"))] = data.get("run")
    if len(runs) > 1:
        raise MarksInvalid(f"{source} is about {len(runs)} runs. Export the tasks of each one on their own.")
    return Decided(
        source=source, run=next(iter(runs.values()), None), decisions=distinct(decisions), how_to_redo=HOW_TO_REDO
    )


def _choices(source: str, task: Mapping[str, Any], sample: Any) -> list[str]:
    """The label of every annotation that made a choice."""
    made = []
    for annotation in task.get("annotations") or []:
        if annotation.get("was_cancelled"):
            continue
        of_label = [part for part in annotation.get("result", []) if part.get("from_name") == CHOICE]
        chosen = [name for part in of_label for name in part.get("value", {}).get("choices", [])]
        if len(chosen) > 1:
            raise MarksInvalid(f"{source} gives sample {sample!r} the labels {', '.join(chosen)} at once. Choose one.")
        made += chosen
    return made
