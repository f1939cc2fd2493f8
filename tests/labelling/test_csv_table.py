"""A table whose column `label` is filled in by hand, by a script, or by cleanlab."""

import pandas as pd
import pytest
import torch

from hydragrad.errors import MarksInvalid
from labelling.conftest import CLASSES


@pytest.fixture
def table(subject, tmp_path):
    return subject.export(tmp_path / "suspects.csv", most=20)


def filled(file, labels, **options):
    """Fill in the column `label` and write the file again, as a spreadsheet would."""
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    frame["label"] = [labels.get(int(sample), "") for sample in frame["sample"]]
    frame.to_csv(file, index=False, **options)


def test_the_table_holds_what_a_person_decides_by_and_not_the_truth(subject, table):
    frame = pd.read_csv(table)
    assert frame["sample"].tolist() == subject.suspects["sample"].head(20).tolist()
    assert frame["label"].isna().all() and (frame["run"] == subject.run.digest).all()
    assert frame["given_name"].tolist() == [CLASSES[label] for label in frame["given_label"]]
    assert frame["suggested_label"].tolist() == subject.suspects["suggested_label"].head(20).tolist()
    assert torch.allclose(*(torch.tensor(part["suspicion"].head(20).to_numpy()) for part in (frame, subject.suspects)))
    assert not {"true_label", "flipped"} & set(frame)


@pytest.mark.parametrize(
    "options", [{}, {"sep": ";"}, {"sep": "\t"}, {"encoding": "utf-8-sig", "lineterminator": "\r\n"}]
)
def test_names_and_numbers_are_read_back(subject, table, options):
    (first, second), fine = subject.wrong(2)
    right = {first: int(subject.true[first]), second: int(subject.true[second])}
    cells = {first: str(right[first]), second: f" {CLASSES[right[second]]} ", fine: CLASSES[int(subject.true[fine])]}
    filled(table, cells, **options)
    marks = subject.read(table)
    assert (marks.fixed, marks.fine) == (right, (fine,))
    labels = torch.stack([label for _, label in marks.relabelled(subject.run)])
    changed = (labels != subject.given).nonzero().flatten().tolist()
    assert changed == sorted(right) and all(labels[sample] == right[sample] for sample in right)


def test_a_frame_is_read_as_its_file_is(subject, table):
    (first,), _ = subject.wrong(1)
    filled(table, {first: int(subject.true[first])})
    assert subject.read(pd.read_csv(table)) == subject.read(table)


def test_issues_of_cleanlab_get_the_predicted_label(subject, tmp_path):
    (first, second), _ = subject.wrong(2)
    names = [CLASSES[label] for label in subject.given]
    issues = pd.DataFrame({"is_label_issue": False, "label_score": 0.5, "given_label": names, "predicted_label": names})
    for sample in (first, second):
        issues.loc[sample, ["is_label_issue", "predicted_label"]] = [True, CLASSES[int(subject.true[sample])]]
    issues.to_csv(tmp_path / "issues.csv")
    for source in (issues, tmp_path / "issues.csv"):
        with pytest.warns(UserWarning, match="does not name the run .* are those of this run"):
            marks = subject.read(source)
        assert marks.fixed == {sample: int(subject.true[sample]) for sample in (first, second)}


def change(**cells):
    return lambda frame: frame.assign(**cells)


@pytest.mark.parametrize(
    ("altered", "message"),
    [
        (change(run="0" * 64), "holds marks of another run .000000000000; this one is"),
        (change(sample="45"), "marks sample 45; the run was trained on samples 0 to 44"),
        (change(sample="x"), "name a sample by its number, got .x"),
        (change(label="a mouse"), "the label 'a mouse', which does not exist; there are a cat, a dog, a <fox> & more"),
        (change(label="3"), "the label 3, which does not exist"),
        (
            lambda frame: frame.assign(given_label=[(int(x) + 1) % 3 for x in frame["given_label"]], given_name=""),
            "have changed since",
        ),
        (change(label=lambda frame: frame["given_label"]), "marks no label as fixed .* as fine"),
        (lambda frame: pd.concat([frame, frame.assign(label="a cat"), frame.assign(label="a dog")]), "twice. Keep one"),
        (lambda frame: pd.concat([frame, frame.assign(run="0" * 64)]), "is about 2 runs"),
        (lambda frame: frame.drop(columns="label"), "A table needs the columns sample and label"),
        (lambda frame: frame.iloc[:0], "A table needs the columns sample and label"),
    ],
)
def test_tables_that_do_not_fit_are_refused(subject, table, altered, message):
    (first,), _ = subject.wrong(1)
    filled(table, {first: str(int(subject.true[first]))})
    frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    altered(frame[frame["label"] != ""]).to_csv(table, index=False)
    with pytest.raises(MarksInvalid, match=message):
        subject.read(table)


def test_a_table_that_names_neither_run_nor_given_label_is_taken_with_a_warning(subject, tmp_path):
    (first,), _ = subject.wrong(1)
    (tmp_path / "own.csv").write_text(f"sample,label\n{first},{int(subject.true[first])}\n")
    with pytest.warns(UserWarning, match="do not say which label the sample carried either"):
        assert subject.read(tmp_path / "own.csv").fixed == {first: int(subject.true[first])}


def test_what_is_no_table_is_refused(subject, tmp_path):
    for text in ("", "hello", 'a,b\n"1,2\n', "sample,other\n1,2\n"):
        (tmp_path / "own.csv").write_text(text)
        with pytest.raises(MarksInvalid, match="A table needs the columns sample and label"):
            subject.read(tmp_path / "own.csv")
