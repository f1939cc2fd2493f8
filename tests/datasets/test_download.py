"""Downloads, from a server that the tests play themselves."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from hydragrad.datasets.cifar10 import read_cifar10
from hydragrad.datasets.download import Remote, download
from hydragrad.datasets.idx import FILES, read_idx
from hydragrad.errors import ChecksumMismatch, DataNotFound

URL = "https://example.org/data/file.bin"
REMOTE = Remote(URL, hashlib.md5(b"published").hexdigest())


class Response:
    """What requests.get returns, as far as pooch looks at it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.headers = {"content-length": str(len(content))}

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def raise_for_status(self) -> None: ...

    def iter_content(self, chunk_size: int) -> list[bytes]:
        return [self.content]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Content by address, each sent once; any other address refuses the connection."""
    contents: dict[str, bytes] = {}

    def get(url: str, **_: object) -> Response:
        if url not in contents:
            raise requests.ConnectionError("nobody answers")
        return Response(contents.pop(url))

    monkeypatch.setattr(requests, "get", get)
    return contents


def test_a_file_is_fetched_once(server: dict[str, bytes], cache_folder: Path) -> None:
    server[URL] = b"published"
    for _ in range(2):
        (path,) = download("toy", [REMOTE])
        assert path == cache_folder / "toy/file.bin"
        assert path.read_bytes() == b"published"


def test_a_damaged_file_in_the_cache_is_fetched_again(server: dict[str, bytes], cache_folder: Path) -> None:
    (cache_folder / "toy").mkdir(parents=True)
    (cache_folder / "toy/file.bin").write_bytes(b"damaged")
    server[URL] = b"published"
    assert download("toy", [REMOTE])[0].read_bytes() == b"published"


def test_an_unreachable_server_is_an_error_that_names_the_alternative(server: dict[str, bytes]) -> None:
    with pytest.raises(DataNotFound, match=f"toy could not be downloaded from {URL}: nobody answers.*--data-dir"):
        download("toy", [REMOTE])


def test_other_content_from_the_server_is_refused(server: dict[str, bytes], cache_folder: Path) -> None:
    server[URL] = b"a login page"
    with pytest.raises(ChecksumMismatch, match=f"{URL} did not send the published file, expected md5 {REMOTE.md5}"):
        download("toy", [REMOTE])
    assert not list((cache_folder / "toy").glob("file*"))


def test_without_a_folder_idx_files_are_downloaded(server: dict[str, bytes], idx_files: Any, tmp_path: Path) -> None:
    idx_files.write(tmp_path / "upstream", gzipped=True)
    for file in FILES:
        server[f"{idx_files.source.server}{file}.gz"] = (tmp_path / f"upstream/{file}.gz").read_bytes()
    published = read_idx(idx_files.source, None)
    assert np.array_equal(published.train_labels, idx_files.labels)
    assert server == {}


def test_without_a_folder_the_archive_is_downloaded(server: dict[str, bytes], cifar_files: Any) -> None:
    content = cifar_files.archive()
    archive = replace_md5(cifar_files.source.archive, content)
    server[archive.url] = content
    published = read_cifar10(replace(cifar_files.source, archive=archive), None)
    assert np.array_equal(published.test_labels, cifar_files.labels["test_batch"])


def replace_md5(remote: Remote, content: bytes) -> Remote:
    return remote._replace(md5=hashlib.md5(content).hexdigest())
