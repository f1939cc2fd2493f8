"""The format of a file is found from its content."""

import json

import pytest

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
    lines = ["sample,mark,given_label,label,given_name,name", f'"{first}","fixed","{given}","{right}","x","y"']
    lines.append(f'"{fine}","fine","{int(subject.given[fine])}","{int(subject.given[fine])}","x","x"')
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
