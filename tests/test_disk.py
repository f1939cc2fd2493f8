import errno
import os
import resource
import stat

import pytest
import torch
from safetensors.torch import load_file

from hydragrad.disk import (
    load_sealed,
    make_folder,
    read_metadata,
    reading,
    replace_file,
    save_file,
    save_sealed,
    writing,
)
from hydragrad.errors import DiskFull, NotWritable, RunDamaged, RunExists


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "file"
    replace_file(file, lambda to: to.write_text("old"))

    def fail(to):
        to.write_text("half of the ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(file, fail)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_temporary_file_of_a_killed_process_is_overwritten(tmp_path):
    (tmp_path / "file.tmp").write_text("half of the old")
    replace_file(tmp_path / "file", lambda to: to.write_text("new"))
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_raises_disk_full(tmp_path, number):
    with pytest.raises(DiskFull, match=r"full while writing .*resume=True") as caught, writing(tmp_path):
        raise OSError(number, "no space")
    assert caught.value.errno == number


def test_other_errors_are_not_changed(tmp_path):
    with pytest.raises(OSError, match="broken") as caught, writing(tmp_path):
        raise OSError(errno.EIO, "broken")
    assert type(caught.value) is OSError


@pytest.fixture
def small_files():
    """Files of more than 4 KB cannot be written; the system reports this like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_while_writing_tensors_leaves_no_file(tmp_path, small_files):
    with pytest.raises(DiskFull, match="full while writing"):
        replace_file(tmp_path / "w", lambda to: save_file({"w": torch.zeros(5000)}, to, {}))
    assert os.listdir(tmp_path) == []


def test_tensor_files_respect_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save_file({"w": torch.arange(3)}, tmp_path / "w", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == 0o640
    assert load_file(tmp_path / "w")["w"].tolist() == [0, 1, 2]


TENSORS = {
    "w": torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T,
    "none": torch.zeros(0, 4),
    "one": torch.tensor(True),
    "half": torch.ones(3, dtype=torch.bfloat16),
}


def test_sealed_tensors_are_read_back(tmp_path):
    save_sealed(TENSORS, tmp_path / "deep" / "file", {"a": "b"})
    tensors, metadata = load_sealed(tmp_path / "deep" / "file")
    assert metadata == {"a": "b"}
    assert tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in TENSORS.items()
    )
    assert os.listdir(tmp_path / "deep") == ["file"]


def test_every_altered_or_missing_byte_is_detected(tmp_path):
    file = tmp_path / "file"
    save_sealed(TENSORS, file, {"a": "b"})
    content = file.read_bytes()
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1
        file.write_bytes(altered)
        try:
            tensors, metadata = load_sealed(file)
        except ValueError:
            continue
        # only the name of the digest itself may be altered: all else is whole
        assert metadata["a"] == "b"
        assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    for size in (0, 7, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError):
            load_sealed(file)


def test_a_file_without_a_digest_is_read_unchecked(tmp_path):
    save_file({"w": torch.arange(3)}, tmp_path / "w", {})
    assert load_sealed(tmp_path / "w")[0]["w"].tolist() == [0, 1, 2]
    with pytest.raises(FileNotFoundError):
        load_sealed(tmp_path / "none")


def test_a_full_disk_leaves_the_existing_file_unchanged(tmp_path, small_files):
    save_sealed({"w": torch.zeros(5)}, tmp_path / "w")
    with pytest.raises(DiskFull, match="full while writing"):
        save_sealed({"w": torch.zeros(5000)}, tmp_path / "w")
    assert len(load_sealed(tmp_path / "w")[0]["w"]) == 5


def test_metadata_are_read_without_the_tensors(tmp_path):
    save_sealed({"x": torch.ones(2)}, tmp_path / "sealed", {"name": "value"})
    assert read_metadata(tmp_path / "sealed") == {"name": "value"} == load_sealed(tmp_path / "sealed")[1]
    save_file({"x": torch.ones(2)}, tmp_path / "bare", {})
    assert read_metadata(tmp_path / "bare") == {}
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="header"):
        read_metadata(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        read_metadata(tmp_path / "missing")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST])
def test_a_path_that_can_not_be_written_is_named(tmp_path, number):
    said = rf"{tmp_path} must be in a folder that may be written.* Choose another path"
    with pytest.raises(NotWritable, match=said), writing(tmp_path):
        raise OSError(number, os.strerror(number))


def test_errors_of_our_own_are_not_renamed(tmp_path):
    with pytest.raises(RunExists), writing(tmp_path):
        raise RunExists(errno.EEXIST, "a run")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(NotWritable, match="must be in a folder that may be written"):
            make_folder(path)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_path_that_may_not_be_read_is_named(tmp_path):
    said = rf"{tmp_path} may not be read \(no\)\. Change its permissions"
    with pytest.raises(RunDamaged, match=said), reading(tmp_path):
        raise PermissionError(errno.EACCES, "no")
