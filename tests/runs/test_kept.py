"""What is computed once is read back whole or not at all; a disk that takes nothing is no error."""

import json
import os
import resource

import pytest
import torch

from hydragrad.disk import load_sealed, save_file, save_sealed
from hydragrad.runs.kept import Kept, KeptValues, key_digest, tensor_key

KEY = ["run", 12, [["a", 0.5]], {"damping": 0.1}]
TENSORS = {"values": torch.arange(6.0, dtype=torch.float64).reshape(2, 3)}


@pytest.fixture
def kept(tmp_path):
    kept = Kept(tmp_path / "deep" / "scores", "partial", KEY)
    assert kept.read() is None
    assert kept.write(TENSORS, {"a": "b"})
    return kept


@pytest.fixture
def values(tmp_path):
    values = KeptValues(tmp_path / "run", "smoothness", KEY)
    assert values.read() is None
    assert values.write({"options": {"curvature": "ggn"}, "because": "0.1 < 0.2", "steps": (1, 2)})
    return values


def test_tensors_come_back_until_they_are_removed(kept):
    tensors, metadata = Kept(kept.path.parent, "partial", KEY).read()
    assert torch.equal(tensors["values"], TENSORS["values"])
    assert metadata == {"a": "b"}
    assert os.listdir(kept.path.parent) == [f"partial-{key_digest(KEY)[:24]}.safetensors"]
    kept.remove()
    kept.remove()
    assert kept.read() is None and os.listdir(kept.path.parent) == []


def test_values_come_back_in_a_file_for_people(values):
    assert KeptValues(values.path.parent, "smoothness", KEY).read() == {
        "options": {"curvature": "ggn"},
        "because": "0.1 < 0.2",
        "steps": [1, 2],
    }
    assert json.loads(values.path.read_text())["because"] == "0.1 < 0.2"


@pytest.mark.parametrize("file", ["kept", "values"])
def test_every_altered_or_missing_byte_means_computing_again(file, request):
    kept = request.getfixturevalue(file)
    content, whole = kept.path.read_bytes(), repr(kept.read())
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1
        kept.path.write_bytes(altered)
        # only the name of the digest itself may be altered in a file of tensors: all else is whole
        assert kept.read() is None or (file == "kept" and torch.equal(kept.read()[0]["values"], TENSORS["values"]))
    for size in (0, 7, len(content) // 2, len(content) - 2):
        kept.path.write_bytes(content[:size])
        assert kept.read() is None
    kept.path.write_bytes(content)
    assert repr(kept.read()) == whole


def test_another_key_has_another_file_and_a_file_under_a_wrong_name_is_not_believed(kept):
    other = Kept(kept.path.parent, "partial", [*KEY, "more"])
    assert other.path != kept.path and other.read() is None
    os.replace(kept.path, other.path)
    assert other.read() is None


def test_values_of_another_key_are_not_believed_and_replaced(values):
    other = KeptValues(values.path.parent, "smoothness", "another run")
    assert other.path == values.path and other.read() is None
    assert other.write({"because": "new"})
    assert values.read() is None and other.read() == {"because": "new"}
    values.path.write_text('{"because": "no seal"}')
    assert values.read() is None and other.read() is None


def test_a_file_without_the_sealed_key_is_no_result(tmp_path):
    kept = Kept(tmp_path, "", KEY)
    assert kept.path.name == f"{key_digest(KEY)[:24]}.safetensors"
    save_sealed(TENSORS, kept.path)
    assert kept.read() is None
    save_file(TENSORS, kept.path, {})
    assert kept.read() is None


def test_the_same_result_is_the_same_file_byte_for_byte(kept):
    content = kept.path.read_bytes()
    kept.write(TENSORS)
    first = kept.path.read_bytes()
    kept.write(TENSORS)
    assert kept.path.read_bytes() == first != content
    with pytest.raises(ValueError, match="differs from its digest"):
        load_sealed(kept.path)  # its digest covers the key


def test_what_no_longer_fits_is_computed_again(kept, values):
    assert kept.read_as(lambda tensors, metadata: (tensors.keys(), metadata["a"])) == (TENSORS.keys(), "b")
    assert kept.read_as(lambda tensors, metadata: tensors["others"]) is None
    assert values.read_as(lambda options, because, steps: because) == "0.1 < 0.2"
    assert values.read_as(lambda other: other) is None
    values.path.unlink()
    assert values.read_as(lambda **_: 1) is None


def test_a_read_only_disk_takes_nothing_and_is_no_error(kept, values, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    content = kept.path.read_bytes()
    with monkeypatch.context() as patched:
        for name in ("pathlib.Path.mkdir", "pathlib.Path.unlink", "os.replace"):
            patched.setattr(name, refuse)
        assert not kept.write({"values": torch.zeros(1)})
        assert not values.write({"because": "new"})
        kept.remove()
    assert kept.path.read_bytes() == content and values.read()["because"] == "0.1 < 0.2"


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert not Kept(tmp_path / "file", "partial", KEY).write(TENSORS)
    assert Kept(tmp_path / "file", "partial", KEY).read() is None
    assert not KeptValues(tmp_path / "file", "smoothness", KEY).write({"a": 1})


def test_a_full_disk_leaves_what_was_there(kept):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        assert not kept.write({"values": torch.zeros(5000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(kept.read()[0]["values"], TENSORS["values"])
    assert len(os.listdir(kept.path.parent)) == 1


def test_a_tensor_in_a_key_is_its_values_type_and_shape():
    zeros = torch.zeros(2, 3)
    assert tensor_key(zeros) == tensor_key(torch.zeros(3, 2).T)
    others = [torch.zeros(3, 2), zeros.double(), zeros.bfloat16(), torch.tensor([[0.0, 0, 0], [0, 0, 1]])]
    assert len({tensor_key(tensor) for tensor in [zeros, *others]}) == 5
