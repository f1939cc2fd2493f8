"""The format of a file is found from its content."""

import json
import warnings

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hydragrad as hg
from hydragrad.cleaning import Marks
from hydragrad.errors import MarksInvalid


def test_marks_of_the_report_are_read(subject, tmp_path):
    (first,), _ = subject.wrong(1)
    given, right = int(subject.given[first]), int(subject.true[first])
    mark = {"sample": first, "mark": "fixed", "given_label": given, "label": right}
    body = {"format": "hydragrad marks", "version": 1, "run": subject.run.digest, "marks": [mark]}
    (tmp_path / "marks.json").write_text(json.dumps(body))
    assert subject.read(tmp_path / "marks.json").fixed == {first: right}


def test_the_reports_table_is_read(subject, tmp_path):
    (first,), fine = subject.wrong(1)
    given, right = int(subject.given[first]), int(subject.true[first])
    lines = [
        "sample,mark,given_label,label,given_name,name",
        f'"{first}","fixed","{given}","{right}","{subject.labels[given]}","y"',
    ]
    kept = int(subject.given[fine])
    lines.append(f'"{fine}","fine","{kept}","{kept}","{subject.labels[kept]}","x"')
    (tmp_path / "marks.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode())
    with pytest.warns(UserWarning, match="does not name the run"):
        marks = subject.read(tmp_path / "marks.csv")
    assert (marks.fixed, marks.fine) == ({first: right}, (fine,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no JSON"),
        (b"[1, 2", "is no JSON"),
        (b'{"format": "other"}', "holds no marks of a hydragrad report"),
        (b"\xff\xfe\x00", "can't be read as text"),
    ],
)
def test_what_is_no_file_of_labels_is_refused(subject, tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(MarksInvalid, match=message):
        subject.read(tmp_path / "file")


def test_no_file_and_another_folder_are_refused(subject, tmp_path):
    with pytest.raises(MarksInvalid, match=r"There is no file .*nowhere.json. Labels are read from marks"):
        subject.read(tmp_path / "nowhere.json")
    with pytest.raises(MarksInvalid, match=r"is a folder without metadata.json"):
        subject.read(tmp_path)


def places(body, path=()):
    """The path of every entry of a JSON value."""
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def replaced(body, path, value):
    if not path:
        return value
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[path[0]] = replaced(body[path[0]], path[1:], value)
    return copy


@pytest.fixture(scope="module")
def exports(subject, tmp_path_factory):
    """A file of each kind, with one decision, as JSON values."""
    folder = tmp_path_factory.mktemp("exports")
    (first,), _ = subject.wrong(1)
    right = subject.labels[int(subject.true[first])]
    (task,) = [
        task
        for task in json.loads((subject.export(folder / "tasks", format="label-studio") / "tasks.json").read_text())
        if task["data"]["sample"] == first
    ]
    chosen = {"from_name": "label", "to_name": "shown", "type": "choices", "value": {"choices": [right]}}
    samples = json.loads((subject.export(folder / "dataset", format="fiftyone") / "samples.json").read_text())[
        "samples"
    ]
    sample = next(sample for sample in samples if sample["sample"] == first)
    sample["ground_truth"]["label"] = right
    mark = {
        "sample": first,
        "mark": "fixed",
        "given_label": int(subject.given[first]),
        "label": int(subject.true[first]),
    }
    return {
        "tasks": [{**task, "annotations": [{"result": [chosen], "was_cancelled": False}]}],
        "minimal": [{**task["data"], "label": right}],
        "samples": {"samples": [sample]},
        "metadata": {"info": {"run": subject.run.digest}},
        "marks": {"format": "hydragrad marks", "version": 1, "run": subject.run.digest, "marks": [mark]},
    }


@pytest.mark.parametrize("kind", ["tasks", "minimal", "samples", "metadata", "marks"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_an_entry_is_read_or_refused_by_name(subject, exports, tmp_path, kind, data):
    folder = tmp_path / "dataset"
    folder.mkdir(exist_ok=True)
    path = data.draw(st.sampled_from(places(exports[kind])))
    value = data.draw(st.sampled_from([None, 1, -1, 0.5, "x", "", True, [], ["x"], {}, {"x": 1}, [[1]]]))
    bodies = exports | {kind: replaced(exports[kind], path, value)}
    for name in ("samples", "metadata"):
        (folder / f"{name}.json").write_text(json.dumps(bodies[name]))
    file = folder if kind in ("samples", "metadata") else tmp_path / "file.json"
    if file != folder:
        file.write_text(json.dumps(bodies[kind]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            marks = subject.read(file)
        except MarksInvalid:
            return
    assert isinstance(marks, Marks) and set(marks.fixed.values()) <= {0, 1, 2}


def test_the_exports_of_that_test_are_read_as_they_are(subject, exports, tmp_path):
    (first,), _ = subject.wrong(1)
    for kind in ("tasks", "minimal", "marks", "samples"):
        (tmp_path / "metadata.json").write_text(json.dumps(exports["metadata"]))
        (tmp_path / "samples.json").write_text(json.dumps(exports[kind]))
        assert subject.read(tmp_path / "samples.json").fixed == {first: int(subject.true[first])}


@pytest.mark.parametrize("format", ["csv", "label-studio", "minimal", "fiftyone"])
@pytest.mark.parametrize("classes", [("a dog", "a cat", "a <fox> & more"), ("1", "0", "2")])
def test_names_in_another_order_are_refused(subject, tmp_path, format, classes):
    right, place = "a cat", tmp_path / "out"
    subject.export(place, format="label-studio" if format == "minimal" else format)
    if format == "csv":
        table = pd.read_csv(place).assign(label=right)
        table.to_csv(place, index=False)
    elif format == "fiftyone":
        body = json.loads((place / "samples.json").read_text())
        for sample in body["samples"]:
            sample["ground_truth"]["label"] = right
        (place / "samples.json").write_text(json.dumps(body))
    else:
        tasks = json.loads((place / "tasks.json").read_text())
        chosen = {"from_name": "label", "to_name": "shown", "type": "choices", "value": {"choices": [right]}}
        for task in tasks:
            task["annotations"] = [{"result": [chosen]}]
        minimal = [{**task["data"], "label": right} for task in tasks]
        place = tmp_path / "export.json"
        place.write_text(json.dumps(minimal if format == "minimal" else tasks))
    with pytest.raises(MarksInvalid, match=r"calls label . .*; here it is called .*. Pass the names with which"):
        hg.import_labels(subject.run, place, classes=classes)


def test_numbers_that_are_names_are_refused_without_these_names(subject, tmp_path):
    hg.export_suspects(subject.run, subject.suspects, tmp_path / "out.csv", classes=("2", "1", "0"))
    pd.read_csv(tmp_path / "out.csv").assign(label=1).to_csv(tmp_path / "out.csv", index=False)
    with pytest.raises(MarksInvalid, match=r"calls label . '.'; here it is called"):
        hg.import_labels(subject.run, tmp_path / "out.csv")
    assert set(hg.import_labels(subject.run, tmp_path / "out.csv", classes=("2", "1", "0")).fixed.values()) == {1}
