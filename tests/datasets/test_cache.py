"""Decoded arrays in the cache folder."""

from pathlib import Path

import numpy as np
import pytest

from hydragrad.datasets.cache import load_arrays, save_arrays

ARRAYS = {"images": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": np.array([1, 2])}


def test_saved_arrays_are_loaded(cache_folder: Path) -> None:
    assert save_arrays("toy", ARRAYS)
    loaded = load_arrays("toy")
    assert loaded is not None
    assert loaded.keys() == ARRAYS.keys()
    assert all(np.array_equal(loaded[key], ARRAYS[key]) for key in ARRAYS)
    assert [path.name for path in (cache_folder / "decoded").iterdir()] == ["toy.npz"]


def test_arrays_that_were_not_cached_are_none() -> None:
    assert load_arrays("toy") is None


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "another format"])
def test_a_damaged_file_loads_as_none(damage: str, cache_folder: Path) -> None:
    save_arrays("toy", ARRAYS)
    path = cache_folder / "decoded/toy.npz"
    stored = path.read_bytes()
    values = ARRAYS["images"].tobytes()
    damaged = {
        "truncated": stored[:-30],
        "altered": stored.replace(values, values[::-1]),
        "empty": b"",
        "another format": b"text",
    }[damage]
    assert damaged != stored
    path.write_bytes(damaged)
    assert load_arrays("toy") is None


def test_an_array_of_objects_is_not_unpickled(cache_folder: Path) -> None:
    (cache_folder / "decoded").mkdir(parents=True)
    np.savez(cache_folder / "decoded/toy.npz", images=np.array([{}], dtype=object))
    assert load_arrays("toy") is None


def test_an_unwritable_folder_is_no_error(cache_folder: Path) -> None:
    cache_folder.write_text("a file where the folder should be")
    assert not save_arrays("toy", ARRAYS)


def test_a_failed_write_leaves_no_file(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert not save_arrays("toy", ARRAYS)
    assert list((cache_folder / "decoded").iterdir()) == []


def test_every_altered_byte_means_decoding_again_or_changes_nothing(cache_folder: Path) -> None:
    save_arrays("toy", ARRAYS)
    path = cache_folder / "decoded/toy.npz"
    stored = path.read_bytes()
    for place in range(len(stored)):
        for bit in (1, 4, 128):
            altered = bytearray(stored)
            altered[place] ^= bit
            path.write_bytes(altered)
            loaded = load_arrays("toy")
            assert loaded is None or all(np.array_equal(loaded[key], ARRAYS[key]) for key in ARRAYS)


def test_the_file_of_another_data_set_is_not_believed(cache_folder: Path) -> None:
    save_arrays("toy", ARRAYS)
    (cache_folder / "decoded/toy.npz").rename(cache_folder / "decoded/other.npz")
    assert load_arrays("other") is None
