"""Everything that can be wrong with a run directory, a loop or its data: a named error, and no file touched."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Rprop
from torch.utils.data import IterableDataset, TensorDataset

import hydragrad as hg
from hydragrad import errors
from hydragrad.runs import checkpoints, lines
from hydragrad.runs.manifest import read_manifest, write_manifest
from recording.toys import STEPS, Plain, build, build_batch_norm, digest, loss, samples, sgd, take_step, train


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "run"
    train(path)
    return path


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "run"))


# --- the run directory


def flip(name: str) -> Callable[[Path], None]:
    """Alter one byte in the middle of a file."""

    def damage(path: Path) -> None:
        file = next(iter(sorted(path.glob(name))))
        content = bytearray(file.read_bytes())
        middle = content.index(b"seed") + 8 if name == "manifest.json" else len(content) // 2
        content[middle] ^= 1
        file.write_bytes(content)

    return damage


def truncate(path: Path) -> None:
    lines = (path / "steps.jsonl").read_text().splitlines(keepends=True)
    (path / "steps.jsonl").write_text("".join(lines[:-3]))


def newer_schema(path: Path) -> None:
    body = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(body | {"schema": 99}))


DAMAGES = {
    "log truncated": (truncate, errors.RunDamaged, "17 steps; the run had 20"),
    "no log": (lambda p: (p / "steps.jsonl").unlink(), errors.RunDamaged, "steps.jsonl is missing"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), errors.RunNotFound, "no run directory"),
    "manifest": (flip("manifest.json"), errors.RunDamaged, "manifest.json"),
    "log": (flip("steps.jsonl"), errors.RunDamaged, "Line .* of .*steps.jsonl"),
    "index": (flip("checkpoints.jsonl"), errors.RunDamaged, "Line .* of .*checkpoints.jsonl"),
    "checkpoint": (flip("checkpoints/*"), errors.RunDamaged, "step-00000000"),
    "schema": (newer_schema, errors.RecordingMismatch, "written in schema 99"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(run: Path, name: str) -> None:
    damage, error, message = DAMAGES[name]
    damage(run)
    before = digest(run)
    with pytest.raises(error, match=message):
        hg.Recording(run, build(), loss, samples())
    assert digest(run) == before


def relabelled(index: int, label: int) -> TensorDataset:
    x, y = samples().tensors
    y = y.clone()
    y[index] = label
    return TensorDataset(x, y)


OTHERS = {
    "missing and added": ({"model": nn.Linear(4, 3)}, "missing: 0.weight"),
    "extra": ({"model": nn.Sequential(*build(), nn.Linear(3, 3))}, "added: 4.weight"),
    "shape": ({"model": nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Dropout(0.3), nn.Linear(7, 3))}, r"0.weight: rec"),
    "activation": (
        {"model": nn.Sequential(*(nn.ReLU() if i == 1 else m for i, m in enumerate(build())))},
        "first step",
    ),
    "loss": ({"loss": lambda model, batch: 2 * loss(model, batch)}, "first step"),
    "length": ({"train_set": samples(21)}, "22 training samples; this data set has 21"),
    "label": ({"train_set": relabelled(3, (int(samples()[3][1]) + 1) % 3)}, "other content"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_loss_or_data_set_is_refused(recorded: Path, name: str) -> None:
    change, message = OTHERS[name]
    before = digest(recorded)
    with pytest.raises(errors.RecordingMismatch, match=message):
        hg.Recording(recorded, **{"model": build(), "loss": loss, "train_set": samples(), **change})
    assert digest(recorded) == before


def test_another_machine_is_warned_of(run: Path) -> None:
    manifest = read_manifest(run)
    write_manifest(run, dataclasses.replace(manifest, machine=manifest.machine | {"processor": "abacus"}))
    with pytest.warns(UserWarning, match="not the machine of the recording .*abacus"):
        opened = hg.Recording(run, build(), loss, samples())
    assert not opened.same_machine
    assert not hg.attribute(opened, hg.mean_loss(samples(4)), curvature="none").evidence.replay_exact


def test_a_run_is_not_overwritten(recorded: Path) -> None:
    before = digest(recorded)
    with pytest.raises(errors.RunExists, match=r"Choose another directory, .*resume=True"):
        train(recorded)
    assert digest(recorded) == before


@pytest.mark.parametrize("name", ["steps.jsonl", "checkpoints.jsonl", "epochs.jsonl", "scores/test.safetensors"])
def test_files_of_a_run_without_manifest_are_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(errors.RunExists, match=name.split("/")[0]):
        train(tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert len(digest(tmp_path)) == 1


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    train(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


# --- what train is given


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(samples())


class OwnSGD(SGD):
    pass


def with_nan(plain: bool) -> Any:
    data = Plain()
    data.x = data.x.clone()
    data.x[4, 1] = torch.nan
    return data if plain else TensorDataset(data.x, data.y)


def embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 3, sparse=True))


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], type[Exception], str]] = {
    "NaN in memory": (lambda: {"data": with_nan(False)}, errors.DataError, r"1 training samples.*\[4\]"),
    "empty": (lambda: {"data": TensorDataset(torch.zeros(0, 4))}, errors.DataError, "empty"),
    "stream": (lambda: {"data": Stream()}, errors.DataError, "map-style"),
    "label too large": (lambda: {"data": relabelled(9, 3)}, errors.DataError, r"samples \[9\].*out of"),
    "label negative": (lambda: {"data": relabelled(9, -1)}, errors.DataError, r"samples \[9\].*out of"),
    "float16": (lambda: {"model": build().half()}, errors.Unsupported, "float16"),
    "bfloat16": (lambda: {"model": build().bfloat16()}, errors.Unsupported, "bfloat16"),
    "Rprop": (lambda: {"optimizer": Rprop(build().parameters())}, errors.Unsupported, "Rprop has no rule here"),
    "subclass": (lambda: {"optimizer": OwnSGD(build().parameters())}, errors.Unsupported, "OwnSGD"),
    "foreign": (lambda: {"optimizer": sgd(build())}, errors.Unsupported, "not the model's"),
    "sparse": (lambda: {"model": embedding()}, errors.Unsupported, "sparse=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_before_a_file_is_written(tmp_path: Path, name: str) -> None:
    arguments, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        train(tmp_path / "run", **arguments())
    assert not (tmp_path / "run").exists()


LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "shape ()": lambda model, batch: loss(model, batch).mean(),
    "shape (5, 3)": lambda model, batch: model(batch[0]),
    "int64": lambda model, batch: batch[1],
    "float": lambda model, batch: loss(model, batch).sum().item(),
}


@pytest.mark.parametrize("came", LOSSES)
def test_a_loss_must_be_one_number_a_sample(tmp_path: Path, came: str) -> None:
    with pytest.raises(errors.LossError, match=came.replace("(", r"\(").replace(")", r"\)")):
        train(tmp_path, loss=LOSSES[came])


def test_nan_in_a_batch_names_the_sample(tmp_path: Path) -> None:
    with pytest.raises(errors.NonFinite, match=r"samples \[4\]"):
        train(tmp_path, data=with_nan(True))


def test_a_run_that_diverges_is_kept_up_to_there(tmp_path: Path) -> None:
    model = build()
    with pytest.raises(errors.NonFinite, match="diverged"):
        train(tmp_path, model, optimizer=sgd(model, lr=1e6, weight_decay=1.0))
    with pytest.warns(UserWarning, match="not completed"):
        opened = hg.Recording(tmp_path, build(), loss, samples())
    assert 0 < len(opened.steps) < STEPS


# --- loops of the user's


def recorder(path: Path, model: nn.Module, optimizer: SGD, **options: Any) -> hg.Recorder:
    return hg.Recorder(path, model, optimizer, loss, samples(), **options)


def block(r: hg.Recorder, model: nn.Module, optimizer: SGD, how: str) -> None:
    """A step, with something in it that does not belong there."""
    indices, batch = list(range(5)), samples()[:5]
    with r.step(indices):
        optimizer.zero_grad()
        if how == "nothing":
            return
        if how == "nested":
            take_step(r, model, optimizer, indices, batch)
        if how == "autocast":
            with torch.autocast("cpu"):
                model(batch[0])
        losses = loss(model, batch)
        (losses.sum() if how == "sum" else losses.mean()).backward()
        if how == "two passes":
            loss(model, samples()[5:10]).mean().backward()
        if how == "frozen":
            model[0].weight.requires_grad_(False)
        for _ in range(2 if how == "two steps" else 1):
            optimizer.step()


BLOCKS = {
    "nothing": (errors.StepError, "held neither"),
    "two steps": (errors.StepError, "this one held 2"),
    "nested": (errors.StepError, "never nested"),
    "autocast": (errors.Unsupported, "autocast"),
    "two passes": (errors.StepError, "holds one backward pass"),
    "sum": (errors.ReplayMismatch, "reduction"),
    "frozen": (errors.Unsupported, "0.weight requires no gradient and has one"),
}


@pytest.mark.parametrize("how", BLOCKS)
def test_a_step_that_cannot_be_replayed_is_refused_at_once(tmp_path: Path, how: str) -> None:
    error, message = BLOCKS[how]
    model = build()
    optimizer = sgd(model)
    with pytest.raises(error, match=message), recorder(tmp_path, model, optimizer) as r:
        block(r, model, optimizer, how)


def weights_by_hand(model: nn.Module, optimizer: SGD) -> None:
    with torch.no_grad():
        model[0].weight.mul_(2)


def state_loaded(model: nn.Module, optimizer: SGD) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def state_edited(model: nn.Module, optimizer: SGD) -> None:
    optimizer.state[model[0].weight]["momentum_buffer"].mul_(0.5)


BETWEEN: dict[str, tuple[Callable[[nn.Module, SGD], object], str]] = {
    "weights": (weights_by_hand, "changed outside recorder.step"),
    "train mode": (lambda model, _: model(samples().tensors[0]), "running statistics"),
    "state cleared": (lambda _, optimizer: optimizer.state.clear(), "optimizer's state"),
    "state loaded": (state_loaded, "optimizer's state"),
    "state edited": (state_edited, "optimizer's state"),
    "optimizer": (lambda _, optimizer: optimizer.step(), "called outside recorder.step"),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_changes_between_steps_are_refused(tmp_path: Path, name: str) -> None:
    change, message = BETWEEN[name]
    model = build_batch_norm()
    optimizer = sgd(model)
    with pytest.raises(errors.StepError, match=message), recorder(tmp_path, model, optimizer) as r:
        take_step(r, model, optimizer, range(5), samples()[:5])
        change(model, optimizer)
        take_step(r, model, optimizer, range(5), samples()[:5])


def test_weights_that_are_divided_by_zero_are_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    nn.init.constant_(model[0].bias, -1e3)  # no unit is active, so that weights have gradients of 0
    model[0].weight.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    optimizer = Adam([model[2].bias, model[2].weight], lr=0.1, eps=0.0)
    with (
        pytest.raises(errors.NonFinite, match=r"2.weight became NaN or infinite at step 0.*\(0.1\).*eps above 0"),
        hg.Recorder(tmp_path, model, optimizer, loss, samples()) as r,
    ):
        take_step(r, model, optimizer, range(5), samples()[:5])


@pytest.mark.parametrize(("indices", "message"), [([0, 22], r"\[22\]"), ([-1], r"\[-1\]"), ([], "empty batch")])
def test_indices_must_be_samples(tmp_path: Path, indices: list[int], message: str) -> None:
    model = build()
    optimizer = sgd(model)
    with pytest.raises(errors.QueryError, match=message), recorder(tmp_path, model, optimizer) as r:
        take_step(r, model, optimizer, indices, samples()[:5])


# --- a full disk


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(errors.DiskFull, match="will take about"):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("owner", "name", "after"), [(lines.AppendOnlyLines, "append", 14), (checkpoints, "save_file", 2)]
)
def test_a_full_disk_keeps_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: int
) -> None:
    straight = train(tmp_path / "straight")
    real, calls = getattr(owner, name), []

    def limited(*arguments: Any) -> None:
        calls.append(name)
        with lines.writing(tmp_path):
            if len(calls) > after:
                raise OSError(28, "No space left on device")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, limited)
        with pytest.raises(errors.DiskFull, match=r"disk is full.*resume"):
            train(tmp_path / "run")
    with pytest.warns(UserWarning, match="not completed"):
        opened = hg.Recording(tmp_path / "run", build(), loss, samples())
    assert 0 < len(opened.steps) < STEPS
    assert opened.steps == straight.steps[: len(opened.steps)]
    resumed = train(tmp_path / "run", resume=True)
    assert resumed.steps == straight.steps
