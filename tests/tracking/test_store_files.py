"""Every file of a finished store is held to what was written: the same answer, or the file is named."""

import json
import shutil

import numpy as np
import pytest
import torch

import hydragrad as hg
from cases import Case
from hydragrad.errors import HydragradError, RunDamaged
from hydragrad.tracking import Store, hypergradients
from tracking.test_facts import rewrite

MLP = Case("mlp", "warm")
QUERY = hg.mean_loss(MLP.held_out)
FILES = ("rows.npy", "samples.npy", "checksums.npy", "final.safetensors")


@pytest.fixture
def folder(recorded, tmp_path):
    hypergradients(recorded(MLP), store=tmp_path / "store")
    return tmp_path / "store"


def answer(folder):
    return Store.open(folder, MLP.build(), MLP.loss).contributions(QUERY).values


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << (at % 8)
    path.write_bytes(raw)


@pytest.mark.parametrize("name", [*FILES, "store.json"])
def test_a_flipped_byte_anywhere_in_a_store_is_noticed(folder, name):
    expected, original = answer(folder), (folder / name).read_bytes()
    for at in {*range(0, len(original), max(1, len(original) // 40)), len(original) - 1}:
        flip(folder / name, at)
        with pytest.raises(HydragradError):
            raise_unless(torch.equal(answer(folder), expected))
        (folder / name).write_bytes(original)
    assert torch.equal(answer(folder), expected)


def raise_unless(same):
    if same:
        raise RunDamaged("The same answer is right, too.")


@pytest.mark.parametrize("name", FILES)
def test_a_store_file_that_is_cut_emptied_or_missing_is_named(folder, name):
    original = (folder / name).read_bytes()
    for content in (original[:-1], original[: len(original) // 2], original[:5], b"", None):
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        with pytest.raises(RunDamaged, match=name):
            answer(folder)
    (folder / name).write_bytes(original)


def test_a_file_of_another_store_or_in_the_place_of_another_is_named(folder, recorded, tmp_path):
    hypergradients(recorded(MLP), samples=range(1, 13), store=tmp_path / "other")
    for name in FILES[:3]:
        shutil.copy(folder / name, tmp_path / "copy")
        shutil.copy(tmp_path / "other" / name, folder / name)
        with pytest.raises(RunDamaged, match="checksum"):
            answer(folder)
        shutil.copy(tmp_path / "copy", folder / name)
    shutil.copy(folder / "samples.npy", folder / "checksums.npy")
    with pytest.raises(RunDamaged, match=r"checksums.npy is not the file that the store was written with"):
        answer(folder)


def test_a_store_without_checksums_is_read_with_a_note_and_held_to_its_shapes(folder):
    expected = answer(folder)
    rewrite(folder / "store.json", lambda body: body.pop("files"))
    scores = Store.open(folder, MLP.build(), MLP.loss).contributions(QUERY)
    assert torch.equal(scores.values, expected)
    assert any("without checksums of its model" in note.text for note in scores.evidence.notes)
    assert "files" not in json.loads((folder / "store.json").read_text())
    samples = np.load(folder / "samples.npy")
    np.save(folder / "samples.npy", samples[:-1])
    with pytest.raises(RunDamaged, match=r"samples.npy does not fit the .* rows"):
        answer(folder)
    raw = (folder / "samples.npy").read_bytes()
    (folder / "samples.npy").write_bytes(raw[:10] + b"}" + raw[11:])
    with pytest.raises(RunDamaged, match=r"samples.npy can't be read"):
        answer(folder)
