"""What is exported is held to the run first, and nothing that may hold decisions is replaced."""

import numpy as np
import pytest
from PIL import Image

import hydragrad as hg
from hydragrad.errors import MarksInvalid, NotWritable, PresentationError, UnknownName
from labelling.conftest import CLASSES


def test_what_is_there_already_is_not_replaced(subject, tmp_path):
    (tmp_path / "there.csv").write_text("decisions")
    with pytest.raises(NotWritable, match=r"may hold decisions. Choose another path"):
        subject.export(tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == "decisions"


def test_an_unknown_format_is_refused(subject, tmp_path):
    with pytest.raises(UnknownName, match="format must be one of csv, label-studio, fiftyone; got 'excel'"):
        subject.export(tmp_path / "file", format="excel")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda frame: frame.drop(columns="suspicion"), {}, "suspicion missing"),
        (lambda frame: frame.iloc[:0], {}, "got 0 rows"),
        (lambda frame: frame, {"most": 0}, "most=0"),
        (lambda frame: frame.assign(sample=45), {}, "samples 0 to 44, listed once; got sample 45"),
        (lambda frame: frame.assign(sample=3), {}, "got a sample twice"),
        (lambda frame: frame.assign(given_label=7), {}, "carries label 7; in this run it is"),
        (lambda frame: frame, {"classes": ["a", "b"]}, "Label 2 has no name: classes names 2 labels"),
        (lambda frame: frame, {"classes": ["a", "b", "a"]}, "classes calls two labels 'a'"),
        (lambda frame: frame, {"classes": ["a", " ", "c"]}, "an empty name for label 1"),
    ],
)
def test_suspects_that_do_not_fit_are_refused(subject, tmp_path, change, options, message):
    with pytest.raises(PresentationError, match=message):
        hg.export_suspects(subject.run, change(subject.suspects), tmp_path / "file", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["csv", "label-studio", "fiftyone"])
def test_suspects_of_a_model_trained_elsewhere_are_exported_and_read_back(subject, tmp_path, format):
    run = subject.run
    elsewhere = hg.Checkpoints([run.trained_model().state_dict()], run.model, run.loss, run.train_set)
    hg.export_suspects(elsewhere, subject.suspects, tmp_path / "out", format=format, classes=CLASSES)
    (first,), _ = subject.wrong(1)
    if format == "csv":
        lines = (tmp_path / "out").read_text().splitlines(keepends=True)
        place = next(i for i, line in enumerate(lines) if line.startswith(f"{first},"))
        lines[place] = lines[place].replace(f"{first},,", f"{first},{int(subject.true[first])},")
        (tmp_path / "out").write_text("".join(lines))
        marks = hg.import_labels(elsewhere, tmp_path / "out", classes=CLASSES)
        assert marks.fixed == {first: int(subject.true[first])}
        with pytest.raises(MarksInvalid, match="marks of another run"):
            subject.read(tmp_path / "out")


def test_pictures_in_colour_stay_in_colour(subject, tmp_path):
    shown = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    folder = subject.export(tmp_path / "out", format="fiftyone", render=lambda item: shown, most=1)
    (picture,) = (folder / "data").iterdir()
    assert np.array_equal(np.asarray(Image.open(picture)), shown)
