"""Checked test labels: the published counts; files other than the published ones are refused."""

import pytest

from hydragrad.errors import ChecksumMismatch, DataNotFound, UnknownName
from studies.checked_labels import checked_labels


@pytest.mark.parametrize(("data", "checked", "wrong"), [("mnist", 100, 15), ("cifar10", 275, 54)])
def test_checked_labels_have_the_published_counts(data_dir, data, checked, wrong):
    labels = checked_labels(data, data_dir=data_dir)
    assert len(labels) == checked
    assert sum(label.wrong for label in labels) == wrong
    assert all(0 <= label.sample < 10_000 and 0 <= label.label < 10 for label in labels)


def test_a_missing_or_other_file_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="mnist, cifar10"):
        checked_labels("digits")
    with pytest.raises(DataNotFound, match=r"mnist_mturk\.json"):
        checked_labels("mnist", data_dir=tmp_path)
    (tmp_path / "mnist_mturk.json").write_text("[]")
    with pytest.raises(ChecksumMismatch, match="not the published file"):
        checked_labels("mnist", data_dir=tmp_path)
