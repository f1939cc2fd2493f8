"""CIFAR-10's forms and its pickles, on small synthetic batches and on the genuine ones."""

import lzma
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydragrad.datasets import cifar10
from hydragrad.datasets.cifar10 import ARCHIVE, CIFAR10, MEAN, STD, SUBFOLDERS, decode_batch, read_cifar10
from hydragrad.datasets.published import Published
from hydragrad.errors import ChecksumMismatch, DataError, DataNotFound


class Planted:
    """A pickle of it creates a file when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


@pytest.fixture
def planted(tmp_path: Path) -> bytes:
    """A pickle with a side effect that works."""
    trace = tmp_path / "trace"
    content = pickle.dumps(Planted(trace), protocol=2)
    pickle.loads(content)
    assert trace.exists()
    trace.unlink()
    return content


def assert_holds(published: Published, files: Any) -> None:
    train = [batch for batch in files.contents if batch != "test_batch"]
    assert np.array_equal(published.train_images, np.concatenate([files.images[batch] for batch in train]))
    assert np.array_equal(published.train_labels, np.concatenate([files.labels[batch] for batch in train]))
    assert np.array_equal(published.test_images, files.images["test_batch"])
    assert np.array_equal(published.test_labels, files.labels["test_batch"])


@pytest.mark.parametrize("subfolder", SUBFOLDERS)
def test_plain_batches_are_read_from_usual_subfolders(subfolder: str, cifar_files: Any, tmp_path: Path) -> None:
    cifar_files.write(tmp_path / subfolder)
    assert_holds(read_cifar10(cifar_files.source, tmp_path), cifar_files)


def test_batches_compressed_one_by_one_are_read(cifar_files: Any, tmp_path: Path) -> None:
    for batch, content in cifar_files.contents.items():
        (tmp_path / f"{batch}.xz").write_bytes(lzma.compress(content))
    assert_holds(read_cifar10(cifar_files.source, tmp_path), cifar_files)


def test_the_archive_is_read(cifar_files: Any, tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(cifar_files.archive())
    assert_holds(read_cifar10(cifar_files.source, tmp_path), cifar_files)


def test_a_refusal_names_both_forms(cifar_files: Any, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=rf"cifar10 is not in .*data_batch_1, .*test_batch; or {ARCHIVE}"):
        read_cifar10(cifar_files.source, tmp_path)


@pytest.mark.parametrize("form", ["plain", "xz", "archive"])
@pytest.mark.parametrize("batch", ["data_batch_1", "test_batch"])
def test_an_unpublished_batch_is_refused_and_never_unpickled(
    form: str, batch: str, planted: bytes, cifar_files: Any, tmp_path: Path
) -> None:
    cifar_files.contents[batch] = planted
    cifar_files.write(tmp_path)
    if form == "xz":
        (tmp_path / batch).unlink()
        (tmp_path / f"{batch}.xz").write_bytes(lzma.compress(planted))
    elif form == "archive":
        (tmp_path / batch).unlink()
        (tmp_path / ARCHIVE).write_bytes(cifar_files.archive())
    with pytest.raises(ChecksumMismatch, match=rf"{batch}.*is not the published file: expected content of md5"):
        read_cifar10(cifar_files.source, tmp_path)
    assert not (tmp_path / "trace").exists()


def test_a_pickle_that_names_other_types_is_refused(planted: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold a byte array and labels only; this one names "):
        decode_batch(planted)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_truncated_archive_is_refused(share: float, cifar_files: Any, tmp_path: Path) -> None:
    content = cifar_files.archive()
    (tmp_path / ARCHIVE).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ChecksumMismatch, match=f"{ARCHIVE} is not the published.*got a damaged archive"):
        read_cifar10(cifar_files.source, tmp_path)


def test_a_file_that_is_no_archive_is_refused(cifar_files: Any, tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(b"<html>not found</html>")
    with pytest.raises(ChecksumMismatch, match="got a damaged archive"):
        read_cifar10(cifar_files.source, tmp_path)


def test_an_archive_without_a_batch_is_refused(cifar_files: Any, tmp_path: Path) -> None:
    del cifar_files.contents["data_batch_3"]
    (tmp_path / ARCHIVE).write_bytes(cifar_files.archive())
    with pytest.raises(
        DataNotFound, match=f"{ARCHIVE} must hold all batches; data_batch_3 missing. Fetch the archive again: https://"
    ):
        read_cifar10(cifar_files.source, tmp_path)


def test_the_second_reading_decodes_nothing(cifar_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_files.write(tmp_path)
    read_cifar10(cifar_files.source, tmp_path)
    monkeypatch.setattr(cifar10, "decode_batch", None)
    assert_holds(read_cifar10(cifar_files.source, tmp_path), cifar_files)


def test_a_file_altered_after_the_first_reading_is_refused(cifar_files: Any, tmp_path: Path) -> None:
    cifar_files.write(tmp_path)
    read_cifar10(cifar_files.source, tmp_path)
    (tmp_path / "data_batch_2").write_bytes(b"altered")
    with pytest.raises(ChecksumMismatch, match="data_batch_2 is not the published file"):
        read_cifar10(cifar_files.source, tmp_path)


def test_without_a_writable_cache_the_batches_are_decoded(cifar_files: Any, tmp_path: Path, cache_folder: Path) -> None:
    cache_folder.write_text("a file where the folder should be")
    cifar_files.write(tmp_path)
    assert_holds(read_cifar10(cifar_files.source, tmp_path), cifar_files)


def test_the_published_files_have_the_published_statistics(data_dir: Path) -> None:
    published = read_cifar10(CIFAR10, data_dir)
    assert published.train_images.shape == (50_000, 3, 32, 32)
    assert np.bincount(published.train_labels).tolist() == [5000] * 10
    assert np.bincount(published.test_labels).tolist() == [1000] * 10
    for channel in range(3):
        pixels = published.train_images[:, channel]
        assert pixels.mean() / 255 == pytest.approx(MEAN[channel], abs=5e-5)
        assert pixels.std() / 255 == pytest.approx(STD[channel], abs=5e-5)
