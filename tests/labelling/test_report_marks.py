"""Marks: what a person decided, read from the file that the report saves; files that do not fit are refused by name."""

import json

import pytest

import hydragrad as hg
from cleaning.conftest import noisy_run as noisy_run
from hydragrad.errors import MarksInvalid


@pytest.fixture
def marked(noisy_run, tmp_path):
    """Write a file of marks of two samples, changed as asked, and read it."""
    run, labels, _ = noisy_run
    first, second = labels.flipped.nonzero().flatten()[0].item(), 3
    assert not labels.flipped[second]
    marks = [
        {
            "sample": first,
            "mark": "fixed",
            "given_label": labels.given[first].item(),
            "label": labels.true[first].item(),
        },
        {"sample": second, "mark": "fine", "given_label": labels.given[second].item(), "label": 0},
    ]
    body = {"format": "hydragrad marks", "version": 1, "run": run.digest, "samples": 80, "marks": marks}

    def read(change=lambda body: None):
        changed = json.loads(json.dumps(body))
        change(changed)
        (tmp_path / "marks.json").write_text(json.dumps(changed))
        return hg.import_labels(run, tmp_path / "marks.json"), (first, labels.true[first].item(), second)

    return read


def test_what_was_fixed_and_what_is_fine(marked):
    marks, (fixed, label, fine) = marked()
    assert marks.fixed == {fixed: label}
    assert marks.fine == (fine,)


def of_mark(number=0, **entries):
    return lambda body: body["marks"][number].update(entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body.update(run="abc"), "marks of another run"),
        (lambda body: body.update(format="other"), "holds no marks of a hydragrad report"),
        (lambda body: body.update(marks={}), "holds no marks of a hydragrad report"),
        (lambda body: body.update(version=9), "is of version 9; this hydragrad reads 1"),
        (of_mark(sample=80), "marks sample 80; the run was trained on samples 0 to 79"),
        (of_mark(sample=-1), "marks sample -1"),
        (of_mark(sample="3"), "name a sample by its number"),
        (of_mark(sample=True), "name a sample by its number"),
        (lambda body: body["marks"].append(7), "name a sample by its number, got 7"),
        (lambda body: body["marks"].append(body["marks"][0]), "twice"),
        (of_mark(label=2), "the label 2, which does not exist; there are 0, 1"),
        (of_mark(label=None), "the label None, which does not exist"),
        (of_mark(given_label=7), "carries label 7; in this run it is"),
        (of_mark(mark="wrong"), "must be fixed or fine, got 'wrong'"),
        (lambda body: body["marks"].pop(0), "marks no label as fixed .1 as fine."),
    ],
)
def test_files_that_do_not_fit_are_refused(marked, change, message):
    with pytest.raises(MarksInvalid, match=message):
        marked(change)
