"""What is exported is held to the run first, and nothing that may hold decisions is replaced."""

import pytest

import hydragrad as hg
from hydragrad.errors import NotWritable, PresentationError, UnknownName


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
    ],
)
def test_suspects_that_do_not_fit_are_refused(subject, tmp_path, change, options, message):
    with pytest.raises(PresentationError, match=message):
        hg.export_suspects(subject.run, change(subject.suspects), tmp_path / "file", **options)
    assert not list(tmp_path.iterdir())
