"""A growing table notices damage of any of its files when it is opened again: the same rows, or a named error."""

import numpy as np
import pytest
import torch

from hydragrad.errors import RunDamaged
from hydragrad.tracking.rows.seals import packed, row_seals, unpacked
from hydragrad.tracking.rows.table import Table

STATE = {"w": torch.tensor([1.0, 2.0, 3.0])}


@pytest.fixture(params=[torch.float64, torch.float32, torch.bfloat16], ids=str)
def table(request, tmp_path):
    table = Table.create(tmp_path, rows=5, width=3, accumulators=2, dtype=request.param, room=3, state_bytes=12)
    torch.manual_seed(0)
    for ids in ([0, 2], [1, 2, 4]):
        table.change(np.array(ids), torch.randn(2, len(ids), 3).to(table.read(np.arange(1)).dtype), STATE)
    table.dtype = request.param
    return table


def content(table):
    every = np.arange(5)
    return table.read(every), table.steps, table.touched.tolist(), table.state(STATE)["w"]


def require_same(folder, dtype, before):
    """The same rows; anything else must have been refused."""
    values, steps, touched, state = content(Table.open(folder, dtype))
    assert torch.equal(values, before[0]) and (steps, touched) == before[1:3] and torch.equal(state, before[3])


@pytest.mark.parametrize("inside_a_step", [False, True])
def test_damage_of_any_file_of_a_growing_table_is_noticed(table, tmp_path, inside_a_step):
    before, noticed = content(table), 0
    if inside_a_step:
        ids = np.array([1, 3])
        table._journal(ids)
        table._set_word(2 * table.steps + 1)
        table._put(ids[:1], torch.full((2, 1, 3), 9.0), table.steps + 1)
    files = {path: path.read_bytes() for path in sorted(tmp_path.glob("*.npy"))}
    require_same(tmp_path, table.dtype, before)
    damaged = []
    for path, raw in files.items():
        for at in {*range(0, len(raw), 7), *range(128, len(raw))}:
            damaged.append({path: raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :]})
        damaged += [{path: raw[:-1]}, {path: raw[:128] + bytes(len(raw) - 128)}, {path: b""}, {path: None}]
        damaged += [{path: files[other]} for other in files if files[other] != raw]
    for change in damaged:
        for path, raw in (files | change).items():
            path.unlink(missing_ok=True)
            if raw is not None:
                path.write_bytes(raw)
        try:
            require_same(tmp_path, table.dtype, before)
        except RunDamaged as refusal:
            assert "growing table" in str(refusal)
            noticed += 1
    assert noticed > len(damaged) / 5


def test_a_new_optimizer_state_has_seals(table, tmp_path):
    table.add_state()
    table.change(np.array([3]), torch.ones(3, 1, 3), STATE)
    table.settle(np.array([0, 1]), torch.ones(2, 3))
    before = content(table)
    require_same(tmp_path, table.dtype, before)
    (tmp_path / "table-state-1.npy").rename(tmp_path / "apart")
    with pytest.raises(RunDamaged, match=r"table-state-1\.npy is missing"):
        Table.open(tmp_path, table.dtype)
    (tmp_path / "apart").rename(tmp_path / "table-state-1.npy")
    raw = bytearray((tmp_path / "table-state-1.npy").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "table-state-1.npy").write_bytes(raw)
    with pytest.raises(RunDamaged, match="row 4 of state-1 does not have the seal"):
        Table.open(tmp_path, table.dtype)


def test_a_seal_is_of_content_place_and_steps():
    rows, places = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), np.arange(4)
    seals = row_seals(rows, places, 1)
    for other in (row_seals(rows + 1, places, 1), row_seals(rows, places + 1, 1), row_seals(rows, places, 2)):
        assert (seals != other).all()


def test_a_packed_number_is_unpacked_and_an_altered_one_refused():
    assert unpacked(packed(123_456)) == 123_456
    for bit in range(64):
        with pytest.raises(ValueError, match="does not have the checksum"):
            unpacked(packed(123_456) ^ 1 << bit)


def test_a_kill_while_a_state_is_added_leaves_the_table_as_it_was(table, tmp_path):
    before = content(table)
    table.add_state()
    (tmp_path / "table-state-1.npy").unlink()
    require_same(tmp_path, table.dtype, before)
    again = Table.open(tmp_path, table.dtype)
    again.add_state()
    assert again.accumulators == 3 and torch.equal(again.read(np.arange(5))[:2], before[0])
