"""Published files are located in a folder; other content is refused."""

import gzip
import hashlib
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from hydragrad.datasets.files import FOLDER_VARIABLE, data_folder, locate, read_verified
from hydragrad.errors import ChecksumMismatch, DataNotFound

CONTENT = b"published" * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def test_the_argument_overrides_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, "/variable")
    assert data_folder(None) == Path("/variable")
    assert data_folder("/argument") == Path("/argument")


@pytest.mark.parametrize("empty", [None, ""])
def test_an_unset_or_empty_variable_is_no_folder(empty: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if empty is not None:
        monkeypatch.setenv(FOLDER_VARIABLE, empty)
    assert data_folder(None) is None


def test_a_tilde_is_the_home_folder() -> None:
    assert data_folder("~/data") == Path.home() / "data"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_locate_finds_plain_and_compressed_files(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "subfolder").mkdir()
    (tmp_path / f"subfolder/a{suffix}").touch()
    (tmp_path / "subfolder/b").touch()
    located = locate("toy", tmp_path, ("nowhere", "subfolder"), [("a", "b")])
    assert located.paths == (tmp_path / f"subfolder/a{suffix}", tmp_path / "subfolder/b")


def test_locate_prefers_the_first_complete_subfolder(tmp_path: Path) -> None:
    for file in ("first/a", "second/a", "second/b", "b", "a"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    located = locate("toy", tmp_path, ("first", "second", "."), [("a", "b")])
    assert located.paths == (tmp_path / "second/a", tmp_path / "second/b")


def test_locate_says_what_it_looked_for_and_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "subfolder").mkdir()
    (tmp_path / "subfolder/a").touch()
    with pytest.raises(DataNotFound) as caught:
        locate("toy", tmp_path, ("subfolder", "nowhere"), [("a", "b"), ("c.tar.gz",)])
    message = str(caught.value)
    assert f"toy is not in {tmp_path}. Looked for: a, b; or c.tar.gz" in message
    assert f"{tmp_path / 'subfolder'} (missing: b)" in message
    assert f"{tmp_path / 'nowhere'} (no such folder)" in message
    assert "--data-dir, data_dir= or HYDRAGRAD_DATA" in message
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_published_content_is_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(COMPRESS[suffix](CONTENT))
    assert read_verified(path, MD5) == CONTENT


@pytest.mark.parametrize("suffix", COMPRESS)
def test_other_content_is_refused_with_both_checksums(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(COMPRESS[suffix](b"other"))
    actual = hashlib.md5(b"other").hexdigest()
    with pytest.raises(ChecksumMismatch, match=f"file{suffix} is not the published.*of md5 {MD5}, got md5 {actual}"):
        read_verified(path, MD5)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "another format"])
def test_a_damaged_stream_is_refused(suffix: str, damage: str, tmp_path: Path) -> None:
    stored = COMPRESS[suffix](CONTENT)
    middle = len(stored) // 2
    damaged = {
        "truncated": stored[:middle],
        "altered": stored[:middle] + bytes([stored[middle] ^ 0xFF]) + stored[middle + 1 :],
        "another format": CONTENT,
    }[damage]
    (tmp_path / f"file{suffix}").write_bytes(damaged)
    with pytest.raises(ChecksumMismatch, match=f"expected content of md5 {MD5}, got a damaged {suffix} file"):
        read_verified(tmp_path / f"file{suffix}", MD5)
