"""A FiftyOneDataset on disk, and its labels and tags as FiftyOne 1.22.1 exports them."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from hydragrad.errors import MarksInvalid, PresentationError
from labelling.conftest import CLASSES


@pytest.fixture
def folder(subject, tmp_path):
    return subject.export(tmp_path / "dataset", format="fiftyone", most=20)


def marked(folder, change):
    """Change samples by their number, as the App and its export do: `change(sample, number)`."""
    file = folder / "samples.json"
    body = json.loads(file.read_text())
    for sample in body["samples"]:
        change(sample, sample["sample"])
    file.write_text(json.dumps(body))


def relabel(labels):
    def change(sample, number):
        if number in labels:
            sample["ground_truth"]["label"] = labels[number]

    return change


def tag(tags):
    return lambda sample, number: sample["tags"].extend(tags.get(number, []))


def test_samples_hold_pictures_labels_and_numbers(subject, folder):
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    assert [sample["sample"] for sample in samples] == subject.suspects["sample"].head(20).tolist()
    for sample, row in zip(samples, subject.suspects.to_dict("records"), strict=False):
        pixels = subject.run.train_set[row["sample"]][0][0].numpy()
        assert np.array_equal(
            np.asarray(Image.open(folder / sample["filepath"])), (pixels * 255).round().astype(np.uint8)
        )
        assert sample["ground_truth"]["label"] == CLASSES[row["given_label"]]
        assert sample["suggested"]["label"] == CLASSES[row["suggested_label"]]
        assert sample["suspicion"] == row["suspicion"] and 0 <= sample["_rand"] < 1
    ids = [part["_id"]["$oid"] for sample in samples for part in (sample, sample["ground_truth"], sample["suggested"])]
    assert len(set(ids)) == len(ids) and all(len(bytes.fromhex(name)) == 12 for name in ids)


def test_the_schema_names_every_field_of_a_sample(folder):
    metadata = json.loads((folder / "metadata.json").read_text())
    fields = {field["db_field"] for field in metadata["sample_fields"]}
    assert all(set(sample) <= fields for sample in json.loads((folder / "samples.json").read_text())["samples"])
    assert metadata["default_classes"] == list(CLASSES) and metadata["media_type"] == "image"


def test_changed_labels_and_tags_are_read_back(subject, folder):
    wrong, fine = subject.wrong(3)
    suggested = subject.suspects.set_index("sample")["suggested_label"]
    tagged = next(sample for sample in wrong if suggested[sample] == subject.true[sample])
    wrong.remove(tagged)
    right = {sample: int(subject.true[sample]) for sample in wrong}
    marked(folder, relabel({sample: CLASSES[label] for sample, label in right.items()}))
    marked(folder, tag({tagged: ["fixed", "seen"], fine: ["fine"]}))
    marks = subject.read(folder)
    assert (dict(marks.fixed), marks.fine) == (right | {tagged: int(subject.true[tagged])}, (fine,))
    assert subject.read(folder / "samples.json") == marks


def test_what_is_not_marked_decides_nothing(subject, folder):
    (first,), _ = subject.wrong(1)

    def change(sample, number):
        if number == first:
            sample["ground_truth"]["label"] = CLASSES[int(subject.true[first])]
        elif number % 2:
            sample["ground_truth"] = None

    marked(folder, change)
    assert dict(subject.read(folder).fixed) == {first: int(subject.true[first])} and not subject.read(folder).fine


def test_what_contradicts_itself_is_refused(subject, folder):
    (first,), _ = subject.wrong(1)
    marked(folder, relabel({first: CLASSES[int(subject.true[first])]}))
    marked(folder, tag({first: ["fine"]}))
    with pytest.raises(MarksInvalid, match=f"says several things of sample {first}: its tags are fine"):
        subject.read(folder)


def test_two_tags_are_refused(subject, folder):
    (first,), _ = subject.wrong(1)
    marked(folder, tag({first: ["fine", "fixed"]}))
    with pytest.raises(MarksInvalid, match="its tags are fine, fixed"):
        subject.read(folder)


def test_a_tag_needs_a_suggestion(subject, folder):
    (first,), _ = subject.wrong(1)
    marked(folder, tag({first: ["fixed"]}))
    marked(folder, lambda sample, number: sample.pop("suggested"))
    with pytest.raises(MarksInvalid, match=f"tags sample {first} as fixed without a suggested label"):
        subject.read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sample, number: sample.update(sample=45, tags=["fine"]), "marks sample 45"),
        (lambda sample, number: sample.update(given_label=7), "carries label 7; in this run"),
        (relabel(dict.fromkeys(range(45), "a mouse")), "'a mouse', which does not exist"),
        (lambda sample, number: sample.pop("sample"), "a sample without the fields sample and given_label"),
    ],
)
def test_datasets_that_do_not_fit_are_refused(subject, folder, change, message):
    marked(folder, change)
    with pytest.raises(MarksInvalid, match=message):
        subject.read(folder)


def test_another_run_is_refused(subject, folder):
    (first,), _ = subject.wrong(1)
    marked(folder, relabel({first: CLASSES[int(subject.true[first])]}))
    body = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(body | {"info": {"run": "0" * 64}}))
    with pytest.raises(MarksInvalid, match="holds marks of another run"):
        subject.read(folder)


def test_files_that_are_missing_or_damaged_are_refused(subject, folder):
    (folder / "samples.json").write_text("{")
    with pytest.raises(MarksInvalid, match=r"samples.json is no JSON"):
        subject.read(folder)
    (folder / "samples.json").write_text("[]")
    with pytest.raises(MarksInvalid, match=r"samples.json holds no samples"):
        subject.read(folder)
    (folder / "samples.json").unlink()
    with pytest.raises(MarksInvalid, match=r"There is no file .*samples.json"):
        subject.read(folder)


def test_samples_that_are_no_pictures_are_refused(subject, tmp_path):
    with pytest.raises(PresentationError, match=r"FiftyOne shows pictures; sample .* is none. Pass render="):
        subject.export(tmp_path / "texts", format="fiftyone", render=lambda item: "a text")
    assert not list(tmp_path.iterdir()), "nothing unfinished is left"


def test_fiftyone_itself_imports_the_folder_and_its_export_is_read(subject, folder, tmp_path):
    if "FIFTYONE_DATABASE_URI" not in os.environ:
        pytest.skip("needs fiftyone, and FIFTYONE_DATABASE_URI with its database")
    fo = pytest.importorskip("fiftyone", reason="needs fiftyone")
    dataset = fo.Dataset.from_dir(str(folder), dataset_type=fo.types.FiftyOneDataset, progress=False)
    try:
        assert dataset.values("sample") == subject.suspects["sample"].head(20).tolist()
        assert dataset.default_classes == list(CLASSES) and dataset.media_type == "image"
        dataset.compute_metadata(progress=False)
        assert {(part.width, part.height) for part in dataset.values("metadata")} == {(6, 6)}
        (first, second), fine = subject.wrong(2)
        by_number = {sample.sample: sample for sample in dataset}
        by_number[first].ground_truth.label = CLASSES[int(subject.true[first])]
        by_number[second].ground_truth = fo.Classification(label=CLASSES[int(subject.true[second])])
        by_number[fine].tags.append("fine")
        for number in (first, second, fine):
            by_number[number].save()
        dataset.export(str(tmp_path / "out"), dataset_type=fo.types.FiftyOneDataset, progress=False)
    finally:
        dataset.delete()
    marks = subject.read(tmp_path / "out")
    assert (dict(marks.fixed), marks.fine) == ({i: int(subject.true[i]) for i in (first, second)}, (fine,))
