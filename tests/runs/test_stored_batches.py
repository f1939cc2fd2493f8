import os
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.errors import DiskFull, RunDamaged, Unsupported
from hydragrad.runs.stored_batches import batch_path, load_batch, store_batch, sync_batches

DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64]
tensors = st.builds(
    lambda shape, dtype: torch.arange(int(np.prod(shape))).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(DTYPES),
)
batches = st.recursive(
    tensors | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(batches)
def test_a_batch_comes_back(tmp_path_factory, batch):
    run = tmp_path_factory.mktemp("run")
    store_batch(run, 3, batch)
    sync_batches(run, 3, 4)
    assert same(load_batch(run, 3), batch)


def test_views_and_shared_tensors_come_back(tmp_path):
    whole = torch.arange(12).reshape(3, 4)
    batch = [whole.T, whole[1:], whole, whole]
    store_batch(tmp_path, 0, batch)
    assert same(load_batch(tmp_path, 0), [part.contiguous() for part in batch])


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize(
    ("batch", "came"),
    [
        (Pair(torch.zeros(2), torch.zeros(2)), "Pair"),
        ([np.zeros(3)], "ndarray"),
        ({"x": {1, 2}}, "set"),
        ({(1, 2): torch.zeros(2)}, "dict"),
    ],
)
def test_what_would_come_back_otherwise_is_refused(tmp_path, batch, came):
    with pytest.raises(Unsupported, match=f"this batch holds a {came}"):
        store_batch(tmp_path, 0, batch)


def test_every_altered_byte_is_noticed(tmp_path):
    batch = {"x": torch.arange(4.0), "y": (torch.arange(2), "text")}
    store_batch(tmp_path, 0, batch)
    path = batch_path(tmp_path, 0)
    written = path.read_bytes()
    for place in range(len(written)):
        content = bytearray(written)
        content[place] ^= 1
        path.write_bytes(content)
        try:
            assert same(load_batch(tmp_path, 0), batch), place  # padding, and names that nobody reads
        except RunDamaged as error:
            assert "step-00000000.safetensors can't be read" in str(error)


def test_missing_and_truncated_batches_are_named(tmp_path):
    with pytest.raises(RunDamaged, match=r"step-00000002.safetensors can't be read"):
        load_batch(tmp_path, 2)
    store_batch(tmp_path, 2, torch.zeros(9))
    os.truncate(batch_path(tmp_path, 2), 90)
    with pytest.raises(RunDamaged, match=r"step-00000002.safetensors can't be read"):
        load_batch(tmp_path, 2)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hydragrad.runs.stored_batches.save_file", full)
    with pytest.raises(DiskFull, match=r"full while writing .*step-00000000"):
        store_batch(tmp_path, 0, torch.zeros(3))


def test_a_batch_of_another_step_is_no_batch_of_this_one(tmp_path):
    for step in range(2):
        store_batch(tmp_path, step, torch.tensor([step]))
    batch_path(tmp_path, 0).replace(batch_path(tmp_path, 1))
    with pytest.raises(RunDamaged, match="not what was written at this step"):
        load_batch(tmp_path, 1)
