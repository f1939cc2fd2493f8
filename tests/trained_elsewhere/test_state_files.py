"""What is read: safetensors, torch's files without code, Hugging Face folders, Lightning checkpoints."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

import hydragrad as hg
from hydragrad.errors import CheckpointError, CheckpointNotFound
from hydragrad.trained_elsewhere.state_files import read_state
from trained_elsewhere.states import data, loss, network, trained_states


@pytest.fixture(scope="module")
def states():
    return trained_states()


def opened(*sources):
    return hg.Checkpoints(list(sources), network(), loss, data(24, 0))


def sharded(state, folder, suffix="safetensors"):
    names = list(state)
    parts = {f"model-0000{n}-of-00002.{suffix}": names[n - 1 :: 2] for n in (1, 2)}
    folder.mkdir()
    for file, own in parts.items():
        write = save_file if suffix == "safetensors" else torch.save
        write({name: state[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    stem = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    (folder / f"{stem}.index.json").write_text(json.dumps(index))


def test_every_form_of_a_state_is_the_same_state(states, tmp_path):
    state = states[0]
    save_file(state, tmp_path / "one.safetensors")
    torch.save(state, tmp_path / "one.pt")
    torch.save({"model_state_dict": state, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "two.bin")
    lightning = {f"model.{name}": value for name, value in state.items()}
    torch.save({"state_dict": lightning, "pytorch-lightning_version": "2.5", "epoch": 3}, tmp_path / "three.ckpt")
    for name, file in (("safe", "model.safetensors"), ("pickled", "pytorch_model.bin")):
        (tmp_path / name).mkdir()
        (save_file if name == "safe" else torch.save)(state, tmp_path / name / file)
    sharded(state, tmp_path / "shards")
    sharded(state, tmp_path / "shards-bin", "bin")
    (tmp_path / "lightning").mkdir()
    os.link(tmp_path / "three.ckpt", tmp_path / "lightning" / "epoch=3.ckpt")
    sources = [
        *("one.safetensors", "one.pt", "two.bin", "three.ckpt"),
        *("safe", "pickled", "shards", "shards-bin", "lightning"),
    ]
    digest = opened(state).digests
    for source in sources:
        checkpoints = opened(tmp_path / source)
        assert checkpoints.digests == digest and checkpoints.names == (source,)
        at = checkpoints.at(0)
        assert all(torch.equal(value, state[name]) for name, value in (at.parameters | at.buffers).items())
    assert opened(str(tmp_path / "one.pt")).digests == opened(lightning).digests == digest


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran-code",)


def test_code_in_a_file_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Code()}, "bad.pt")
    with pytest.raises(
        CheckpointError, match=r"bad.pt must be a file that torch.load reads with weights_only=True"
    ) as e:
        opened("bad.pt")
    assert "mkdir" in str(e.value) and "weights_only=False" not in str(e.value)
    assert not os.path.exists("ran-code")


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(network(), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match=r"tensors and plain values, no code. .*Sequential"):
        opened(tmp_path / "module.pt")


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors"])
def test_a_cut_file_is_refused(states, tmp_path, name):
    (save_file if "safe" in name else torch.save)(states[0], tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=name):
        read_state(tmp_path / name)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointNotFound, match=r"no checkpoint .*gone.pt"):
        opened(tmp_path / "gone.pt")


def test_what_holds_no_state_is_described(tmp_path):
    torch.save({"epoch": 3, "weights": {"a": 1}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"must hold a state dict.*epoch \(a int\), weights \(a dict\)"):
        opened(tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="It holds a list"):
        opened(tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"state 1 must hold a state dict.*It holds nothing"):
        opened({})


def test_a_folder_without_one_model_lists_what_it_holds(states, tmp_path):
    for name in ("checkpoint-10", "checkpoint-20"):
        (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=r"It holds checkpoint-10, checkpoint-20. Name the files or folders"):
        read_state(tmp_path)
    with pytest.raises(CheckpointError, match="It holds nothing"):
        read_state(tmp_path / "checkpoint-10")


def test_an_index_of_other_files_is_refused(states, tmp_path):
    folder = tmp_path / "shards"
    sharded(states[0], folder)
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    first = next(iter(states[0]))

    def changed(weight_map):
        index.write_text(json.dumps({"weight_map": weight_map}))

    changed(whole["weight_map"] | {first: "../elsewhere.safetensors"})
    with pytest.raises(CheckpointError, match=r"name files in its own folder, got \.\./elsewhere"):
        read_state(folder)
    changed(whole["weight_map"] | {first: "gone.safetensors"})
    with pytest.raises(CheckpointNotFound, match=r"names gone.safetensors, not in its folder"):
        read_state(folder)
    changed(whole["weight_map"] | {"more": "model-00001-of-00002.safetensors"})
    with pytest.raises(CheckpointError, match="must hold the same tensors; they differ in more"):
        read_state(folder)
    changed({})
    with pytest.raises(CheckpointError, match="got none"):
        read_state(folder)
    index.write_text("[")
    with pytest.raises(CheckpointError, match="must be an index with a weight_map"):
        read_state(folder)
