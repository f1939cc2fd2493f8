"""Tasks for Label Studio, and annotations as its version 1.23.2 exports them."""

import base64
import json
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import hydragrad as hg
from hydragrad.errors import MarksInvalid, PresentationError
from labelling.conftest import CLASSES


@pytest.fixture
def folder(subject, tmp_path):
    return subject.export(tmp_path / "tasks", format="label-studio", most=20)


@pytest.fixture
def tasks(folder):
    return json.loads((folder / "tasks.json").read_text(encoding="utf-8"))


def annotation(label, **entries):
    """As Label Studio exports it, dates and persons left out."""
    result = {"value": {"choices": [label]}, "id": "x4nB", "from_name": "label", "to_name": "shown", "type": "choices"}
    return {"id": 1, "completed_by": 1, "result": [result], "was_cancelled": False, "ground_truth": False, **entries}


def annotated(tasks, labels, **entries):
    """The export of a project in which these samples were annotated; others were not."""
    return [
        {
            "id": number,
            "annotations": [annotation(labels[task["data"]["sample"]], **entries)]
            if task["data"]["sample"] in labels
            else [],
            "drafts": [],
            "predictions": [],
            "data": task["data"],
            "project": 1,
        }
        for number, task in enumerate(tasks, 1)
    ]


def minimal(tasks, labels):
    """The same as JSON-MIN."""
    return [
        {**task["data"], "id": number, "label": labels[task["data"]["sample"]], "annotator": 1, "annotation_id": 1}
        for number, task in enumerate(tasks, 1)
        if task["data"]["sample"] in labels
    ]


@pytest.fixture
def read(subject, tmp_path):
    def from_export(body, ending="json"):
        file = tmp_path / f"export.{ending}"
        if ending == "json":
            file.write_text(json.dumps(body))
        else:
            pd.DataFrame(body).to_csv(file, index=False, sep="\t" if ending == "tsv" else ",")
        return subject.read(file)

    return from_export


def test_tasks_hold_the_picture_and_the_suggested_label_as_prediction(subject, tasks):
    assert [task["data"]["sample"] for task in tasks] == subject.suspects["sample"].head(20).tolist()
    for task, row in zip(tasks, subject.suspects.to_dict("records"), strict=False):
        data, (prediction,) = task["data"], task["predictions"]
        picture = np.asarray(
            Image.open(BytesIO(base64.b64decode(data["image"].removeprefix("data:image/png;base64,"))))
        )
        pixels = subject.run.train_set[row["sample"]][0][0].numpy()
        assert np.array_equal(picture, (pixels * 255).round().astype(np.uint8))
        assert (data["given_label"], data["given"]) == (row["given_label"], CLASSES[row["given_label"]])
        assert prediction["result"][0]["value"]["choices"] == [CLASSES[row["suggested_label"]]]
        assert data["suspicion"] == row["suspicion"] and data["run"] == subject.run.digest
    scores = [task["predictions"][0]["score"] for task in tasks]
    assert scores == sorted(scores, reverse=True) and scores[0] == 1


def test_the_config_offers_every_label_for_what_the_tasks_show(folder, tasks):
    view = ElementTree.fromstring((folder / "config.xml").read_text())
    image, choices = view.find("Image"), view.find("Choices")
    assert [choice.get("value") for choice in choices] == list(CLASSES)
    assert image.get("value").removeprefix("$") in tasks[0]["data"]
    for result in (part for task in tasks for part in task["predictions"][0]["result"]):
        assert (result["from_name"], result["to_name"]) == (choices.get("name"), choices.get("toName"))
    assert choices.get("toName") == image.get("name")


def test_the_sdk_of_label_studio_accepts_config_tasks_and_predictions(folder, tasks):
    interfaces = pytest.importorskip("label_studio_sdk.label_interface", reason="needs label-studio-sdk")
    interface = interfaces.LabelInterface((folder / "config.xml").read_text())
    interface.validate()
    for task in tasks:
        assert interface.validate_task({"data": task["data"]})
        assert all(interface.validate_prediction(prediction) for prediction in task["predictions"])


@pytest.mark.parametrize("ending", ["json", "csv", "tsv"])
def test_every_kind_of_export_is_read(subject, tasks, read, ending):
    wrong, fine = subject.wrong(3)
    right = {sample: int(subject.true[sample]) for sample in wrong}
    labels = {sample: CLASSES[int(subject.true[sample])] for sample in (*wrong, fine)}
    marks = read(minimal(tasks, labels), ending)
    assert (dict(marks.fixed), marks.fine) == (right, (fine,))
    assert read(annotated(tasks, labels)) == marks


def test_predictions_drafts_and_skipped_tasks_decide_nothing(subject, tasks, read):
    (first, second), _ = subject.wrong(2)
    labels = {sample: CLASSES[int(subject.true[sample])] for sample in (first, second)}
    export = annotated(tasks, labels)
    for task in export:
        task["predictions"] = task["drafts"] = [annotation("a cat")]
        if task["data"]["sample"] == second:
            task["annotations"][0]["was_cancelled"] = True
        if not task["annotations"]:
            task["annotations"] = [annotation("a cat", result=[])]
    assert list(read(export).fixed) == [first]


def test_annotators_may_agree_but_not_contradict_one_another(subject, tasks, read):
    (first,), _ = subject.wrong(1)
    export = annotated(tasks, {first: CLASSES[int(subject.true[first])]})
    (task,) = (task for task in export if task["annotations"])
    task["annotations"] *= 2
    assert read(export).fixed == {first: int(subject.true[first])}
    task["annotations"].append(annotation(CLASSES[int(subject.given[first])]))
    with pytest.raises(MarksInvalid, match=f"marks sample {first} twice"):
        read(export)


def with_data(**entries):
    return lambda export: [task["data"].update(entries) for task in export]


def of_first(change):
    return lambda export: [change(task) for task in export if task["annotations"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_data(run="0" * 64), "marks of another run"),
        (with_data(sample=45), "marks sample 45; the run was trained on"),
        (with_data(given_label=7), "carries label 7; in this run it is"),
        (
            of_first(lambda task: task.update(annotations=[annotation("a mouse")])),
            "label 'a mouse', which does not exist",
        ),
        (
            lambda export: [task["data"].pop("sample") for task in export],
            "a task without its sample, as other projects'",
        ),
        (
            of_first(lambda task: task["annotations"][0]["result"].append(annotation("a cat")["result"][0])),
            "the labels .*, a cat at once. Choose one",
        ),
        (
            lambda export: export[0].update(annotations=[annotation("a cat")], data=export[0]["data"] | {"run": "x"}),
            "runs",
        ),
        (lambda export: export.append(3), "must be a list of tasks, as Label Studio exports them"),
    ],
)
def test_exports_that_do_not_fit_are_refused(subject, tasks, read, change, message):
    (_, second), _ = subject.wrong(2)
    export = annotated(tasks, {second: CLASSES[int(subject.true[second])]})
    change(export)
    with pytest.raises(MarksInvalid, match=message):
        read(export)


def test_several_labels_in_a_minimal_export_are_refused(subject, tasks, read):
    (first,), _ = subject.wrong(1)
    with pytest.raises(MarksInvalid, match=f"gives sample {first} several labels"):
        read(minimal(tasks, {first: {"choices": ["a cat", "a dog"]}}))


@pytest.mark.parametrize(
    ("render", "tag", "shown"),
    [
        (lambda item: "a <text>", "Text", {"text": "a <text>"}),
        (lambda item: {"height": 3}, "Table", {"table": {"height": "3"}}),
        (lambda item: None, "Text", None),
    ],
)
def test_texts_and_rows_are_shown_as_such(subject, tmp_path, render, tag, shown):
    folder = subject.export(tmp_path / "other", format="label-studio", render=render, most=2)
    tasks = json.loads((folder / "tasks.json").read_text())
    view = ElementTree.fromstring((folder / "config.xml").read_text()).find(tag)
    kind = view.get("value").removeprefix("$")
    expected = shown or {"text": f"sample {tasks[0]['data']['sample']}"}
    assert {kind: tasks[0]["data"][kind]} == expected


def test_samples_of_two_kinds_are_refused(subject, tmp_path):
    shown = iter(["a text", {"a": 1}])
    with pytest.raises(PresentationError, match=r"shows samples of one kind.* as text and table. Pass render="):
        subject.export(tmp_path / "tasks", format="label-studio", render=lambda item: next(shown), most=2)
    assert not list(tmp_path.iterdir())


def test_suspects_without_suggestions_get_no_predictions(subject, tmp_path):
    plain = subject.suspects.drop(columns="suggested_label")
    folder = hg.export_suspects(subject.run, plain, tmp_path / "plain", format="label-studio")
    tasks = json.loads((folder / "tasks.json").read_text())
    assert not any("predictions" in task for task in tasks) and "suggested" not in (folder / "config.xml").read_text()
    assert [choice.get("value") for choice in ElementTree.parse(folder / "config.xml").iter("Choice")] == [
        "0",
        "1",
        "2",
    ]
    assert torch.equal(torch.tensor([int(task["data"]["given"]) for task in tasks]), subject.given[plain["sample"]])
