"""MNIST's format, on small synthetic files and on the genuine ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydragrad.datasets.idx import FASHION, FILES, MNIST, IdxSource, parse_idx, read_idx
from hydragrad.errors import ChecksumMismatch, DataNotFound


def test_parse_idx_reads_shape_and_values() -> None:
    content = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(6)])
    assert np.array_equal(parse_idx(content), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("subfolder", MNIST.subfolders)
@pytest.mark.parametrize("gzipped", [False, True])
def test_files_are_read_from_usual_subfolders(subfolder: str, gzipped: bool, idx_files: Any, tmp_path: Path) -> None:
    idx_files.write(tmp_path / subfolder, gzipped=gzipped)
    published = read_idx(idx_files.source, tmp_path)
    assert published.train_images.shape == (7, 1, 32, 32)
    assert np.array_equal(published.train_images[:, 0, 2:-2, 2:-2], idx_files.images)
    assert np.array_equal(published.test_images[:, 0, 2:-2, 2:-2], idx_files.images[::-1])
    assert np.array_equal(published.train_labels, idx_files.labels)
    assert np.array_equal(published.test_labels, idx_files.labels[::-1])


def test_margins_are_black(idx_files: Any, tmp_path: Path) -> None:
    idx_files.write(tmp_path)
    images = read_idx(idx_files.source, tmp_path).train_images.astype(int)
    assert images.sum() == idx_files.images.astype(int).sum()


def test_a_missing_file_is_named(idx_files: Any, tmp_path: Path) -> None:
    idx_files.write(tmp_path)
    (tmp_path / FILES[3]).unlink()
    with pytest.raises(DataNotFound, match=rf"(?s)mnist is not in .*\(missing: {FILES[3]}\)"):
        read_idx(idx_files.source, tmp_path)


@pytest.mark.parametrize("file", FILES)
def test_an_altered_file_is_refused(file: str, idx_files: Any, tmp_path: Path) -> None:
    idx_files.contents[file] = idx_files.contents[file][:-1] + b"?"
    idx_files.write(tmp_path, gzipped=True)
    with pytest.raises(ChecksumMismatch, match=f"{file}.gz is not the published file"):
        read_idx(idx_files.source, tmp_path)


@pytest.mark.parametrize(
    ("source", "train_counts", "test_counts"),
    [
        (
            MNIST,
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        ),
        (FASHION, [6000] * 10, [1000] * 10),
    ],
    ids=["mnist", "fashion"],
)
def test_the_published_files_have_the_published_statistics(
    source: IdxSource, train_counts: list[int], test_counts: list[int], data_dir: Path
) -> None:
    published = read_idx(source, data_dir)
    assert np.bincount(published.train_labels).tolist() == train_counts
    assert np.bincount(published.test_labels).tolist() == test_counts
    assert len(source.classes) == 10
    pixels = published.train_images[:, :, 2:-2, 2:-2]
    assert pixels.mean() / 255 == pytest.approx(source.mean, abs=5e-5)
    assert pixels.std() / 255 == pytest.approx(source.std, abs=5e-5)


def test_files_of_another_data_set_are_refused(data_dir: Path) -> None:
    with pytest.raises(ChecksumMismatch, match="another data set's file of the same name"):
        read_idx(FASHION, data_dir / "mnist")
