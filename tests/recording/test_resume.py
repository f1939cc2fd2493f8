"""A run that was stopped anywhere and went on ends at the same bits as one that never stopped."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    ExponentialLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader

import hydragrad as hg
from hydragrad.errors import RecordingMismatch
from hydragrad.recording.observer import StepHandle
from hydragrad.training import mean_loss_and_accuracy
from recording.toys import (
    BATCH_SIZE,
    EPOCHS,
    PER_EPOCH,
    STEPS,
    Hook,
    Plain,
    build,
    digest,
    log_of,
    loss,
    replays_to_the_bit,
    same_weights,
    samples,
    sgd,
    take_step,
)

SCHEDULES: dict[str, tuple[Callable[[Optimizer], Any], dict[str, Any]]] = {
    "none": (lambda o: None, {}),
    "step": (lambda o: StepLR(o, 1, gamma=0.5), {}),
    "milestones": (lambda o: MultiStepLR(o, [1, 3], gamma=0.3), {}),
    "one cycle": (lambda o: OneCycleLR(o, 0.2, total_steps=STEPS), {"scheduler_every": "step"}),
    "plateau": (
        lambda o: ReduceLROnPlateau(o, factor=0.4, patience=0, threshold=0.5),
        {"scheduler_metric": "train_loss + held_out"},
    ),
    "sequence": (
        lambda o: SequentialLR(o, [ConstantLR(o, 0.5, 1), ExponentialLR(o, 0.7)], milestones=[2]),
        {},
    ),
}


class Bomb:
    """Calls what it is given at its n-th tick."""

    def __init__(self, at: int, go_off: Hook) -> None:
        self.left, self.go_off = at, go_off

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.go_off()


class Observer:
    """A step observer that ticks inside the step."""

    def __init__(self, tick: Hook) -> None:
        self.tick = tick

    @contextmanager
    def step(self, indices: Any, batch: Any = None) -> Iterator[StepHandle]:
        yield StepHandle()
        self.tick()


def train(
    path: Path, schedule: str = "none", *, spots: dict[str, Hook] | None = None, **options: Any
) -> tuple[nn.Module, hg.Recording]:
    """Train fresh objects; `spots` are called in the monitor, the data set or a step."""
    spots, model = {spot: lambda: None for spot in ("monitor", "data", "step")} | (spots or {}), build()
    optimizer = sgd(model)
    make, arguments = SCHEDULES[schedule]

    def monitor(watched: nn.Module) -> dict[str, float]:
        spots["monitor"]()
        return {"held_out": mean_loss_and_accuracy(watched, loss, samples(8))[0]}

    run = hg.train(
        model,
        loss,
        Plain(spots["data"]),
        optimizer,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        out=path,
        scheduler=make(optimizer),
        monitor=monitor,
        observers=[Observer(spots["step"])],
        **arguments,
        **options,
    )
    return model, run


def stopped(path: Path, spot: str, tick: int, how: str, run: Callable[..., Any]) -> None:
    """Leave in `path` what a run leaves that is interrupted (Ctrl-C), or killed, at a tick of a spot."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    elsewhere = path.with_name("elsewhere")
    # Nothing is buffered, so a copy of the folder is what a kill at this moment leaves.
    bomb = Bomb(tick, interrupt if how == "interrupted" else lambda: shutil.copytree(elsewhere, path) and None)
    out = path if how == "interrupted" else elsewhere
    with contextlib.suppress(KeyboardInterrupt):
        run(out, spots={spot: bomb.tick})
    assert bomb.left <= 0


# Fingerprint: 16 accesses. Then 5 a step and, before the first, as many for the check of the first step.
PLACES = [("monitor", 2), ("step", 1), ("step", 8), ("step", PER_EPOCH), ("data", 16 + 62), ("monitor", EPOCHS)]


@pytest.mark.parametrize("how", ["interrupted", "killed"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_train_goes_on(tmp_path: Path, schedule: str, how: str) -> None:
    straight, _ = train(tmp_path / "straight", schedule)
    for number, (spot, tick) in enumerate(PLACES):
        path = tmp_path / str(number) / "run"
        path.parent.mkdir()
        stopped(path, spot, tick, how, lambda out, spots: train(out, schedule, spots=spots))
        model, run = train(path, schedule, resume=True)
        assert run.completed
        assert same_weights(model, straight), (spot, tick)
        assert log_of(path) == log_of(tmp_path / "straight"), (spot, tick)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_train_goes_on_twice_whatever_the_checkpoints(tmp_path: Path, every: int) -> None:
    path = tmp_path / "run"
    straight, _ = train(tmp_path / "straight", "step")
    stopped(path, "step", 7, "interrupted", lambda out, spots: train(out, "step", checkpoint_every=every, spots=spots))
    bomb = Bomb(5, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(path, "step", checkpoint_every=every, resume=True, spots={"step": bomb.tick})
    model, run = train(path, "step", checkpoint_every=every, resume=True)
    assert same_weights(model, straight)
    assert log_of(path) == log_of(tmp_path / "straight")
    assert replays_to_the_bit(run)


def test_resuming_starts_where_there_is_no_run(tmp_path: Path) -> None:
    straight, _ = train(tmp_path / "straight")
    model, run = train(tmp_path / "run", resume=True)
    assert len(run.steps) == STEPS
    assert same_weights(model, straight)


def test_resuming_a_completed_run_changes_nothing(tmp_path: Path) -> None:
    straight, _ = train(tmp_path / "run")
    before = digest(tmp_path / "run")
    model, _ = train(tmp_path / "run", resume=True)
    assert digest(tmp_path / "run") == before
    assert same_weights(model, straight)


def users_loop(
    path: Path, *, spots: dict[str, Hook] | None = None, own_generator: bool = False, **options: Any
) -> nn.Module:
    """A script of the user's: seeds, shuffles, trains, steps its schedule once an epoch."""
    spots = {spot: lambda: None for spot in ("before", "step", "after", "end")} | (spots or {})
    torch.manual_seed(3)
    model, data = build(), samples()
    optimizer = sgd(model)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    generator = torch.Generator().manual_seed(4) if own_generator else None
    loader = DataLoader(data, BATCH_SIZE, shuffle=True, generator=generator)
    with hg.Recorder(path, model, optimizer, loss, data, scheduler=scheduler, **options) as recorder:
        for _ in range(recorder.next_step // len(loader), EPOCHS):
            for indices, batch in hg.indexed(loader, recorder=recorder):
                spots["before"]()
                with recorder.step(indices):
                    optimizer.zero_grad()
                    loss(model, batch).mean().backward()
                    spots["step"]()
                    optimizer.step()
                spots["after"]()
            spots["end"]()
            scheduler.step()
    return model


@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("how", ["interrupted", "killed"])
@pytest.mark.parametrize(
    ("spot", "tick"), [("step", 1), ("step", 8), ("before", 8), ("after", 8), ("before", 11), ("after", 10), ("end", 2)]
)
def test_a_users_loop_goes_on(tmp_path: Path, spot: str, tick: int, how: str, own_generator: bool) -> None:
    path = tmp_path / "run"
    straight = users_loop(tmp_path / "straight", own_generator=own_generator)
    stopped(path, spot, tick, how, lambda out, spots: users_loop(out, spots=spots, own_generator=own_generator))
    model = users_loop(path, own_generator=own_generator, resume=True)
    assert log_of(path) == log_of(tmp_path / "straight")
    assert same_weights(model, straight)
    assert replays_to_the_bit(hg.Recording(path, build(), loss, samples()))


def test_a_users_loop_resumes_a_completed_run_without_a_step(tmp_path: Path) -> None:
    straight = users_loop(tmp_path / "run")
    before = digest(tmp_path / "run")
    assert same_weights(users_loop(tmp_path / "run", resume=True), straight)
    assert digest(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": samples(21)}, "22 samples; this data set has 21"),
        ({"reduction": "sum"}, "recorded with reduction='mean', got 'sum'"),
        ({"model": nn.Linear(4, 3)}, "missing: 0.weight"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    users_loop(tmp_path)
    before = digest(tmp_path)
    model, data = change.pop("model", build()), change.pop("data", samples())
    with (
        pytest.raises(RecordingMismatch, match=message),
        hg.Recorder(tmp_path, model, sgd(model), loss, data, resume=True, **change),
    ):
        pass
    assert digest(tmp_path) == before


def test_an_optimizer_with_other_groups_is_not_resumed(tmp_path: Path) -> None:
    users_loop(tmp_path)
    before, model, data = digest(tmp_path), build(), samples()
    optimizer = sgd(model)
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [optimizer.param_groups[0]["params"].pop()]})
    with (
        pytest.raises(RecordingMismatch, match="1 parameter groups before step 20; this optimizer has 2"),
        hg.Recorder(tmp_path, model, optimizer, loss, data, resume=True) as recorder,
    ):
        take_step(recorder, model, optimizer, [0], data[:1])
    assert digest(tmp_path) == before
