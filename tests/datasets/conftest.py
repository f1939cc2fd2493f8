"""Synthetic files in the published formats, and a cache folder other than the user's."""

import gzip
import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hydragrad.datasets import cache, files, idx
from hydragrad.datasets.cifar10 import ARCHIVE, FOLDER, CifarSource
from hydragrad.datasets.download import Remote
from hydragrad.datasets.idx import FILES, Checksums, IdxSource


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no data folder in the environment."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(cache.pooch, "os_cache", lambda project: folder)
    monkeypatch.delenv(files.FOLDER_VARIABLE, raising=False)
    return folder


@dataclass(frozen=True)
class IdxFiles:
    """A small IDX data set: its source, the content of each file, images and labels."""

    source: IdxSource
    contents: dict[str, bytes]
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def write(self, folder: Path, *, gzipped: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in self.contents.items():
            name, stored = (f"{file}.gz", gzip.compress(content)) if gzipped else (file, content)
            (folder / name).write_bytes(stored)


@pytest.fixture
def idx_files() -> IdxFiles:
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (7, 28, 28)).astype(np.uint8)
    labels = random.randint(0, 10, 7).astype(np.uint8)
    arrays = (images, labels, images[::-1], labels[::-1])
    contents = dict(zip(FILES, map(idx_content, arrays), strict=True))
    checksums = tuple(Checksums(md5(content), md5(gzip.compress(content))) for content in contents.values())
    return IdxFiles(replace(idx.MNIST, checksums=checksums), contents, images, labels)


def idx_content(values: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    return header + values.tobytes()


@dataclass(frozen=True)
class CifarFiles:
    """A small CIFAR-10: its source, the pickle of each batch, images and labels."""

    source: CifarSource
    contents: dict[str, bytes]
    images: Mapping[str, NDArray[np.uint8]]
    labels: Mapping[str, list[int]]

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for batch, content in self.contents.items():
            (folder / batch).write_bytes(content)

    def archive(self) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for batch, content in reversed(self.contents.items()):  # the published order is not that of the names
                member = tarfile.TarInfo(f"{FOLDER}/{batch}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return stream.getvalue()


@pytest.fixture
def cifar_files() -> CifarFiles:
    random = np.random.RandomState(0)
    batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    images = {batch: random.randint(0, 256, (4, 3, 32, 32)).astype(np.uint8) for batch in batches}
    labels = {batch: random.randint(0, 10, 4).tolist() for batch in batches}
    contents = {batch: batch_content(images[batch], labels[batch]) for batch in batches}
    checksums = {batch: md5(content) for batch, content in contents.items()}
    source = CifarSource(batches=checksums, archive=Remote(f"https://example.org/{ARCHIVE}", "0" * 32))
    return CifarFiles(source, contents, images, labels)


def batch_content(images: NDArray[np.uint8], labels: list[int]) -> bytes:
    """Pickle a batch like the published ones: keys are byte strings, numpy.core is not private."""
    batch = {b"data": images.reshape(len(images), -1), b"labels": labels}
    return pickle.dumps(batch, protocol=3).replace(b"cnumpy._core.", b"cnumpy.core.")


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
