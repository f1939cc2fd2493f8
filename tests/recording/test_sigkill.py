"""A process that is really killed: the run opens at its last complete step, and resumed it ends at the same bits."""

import os
import signal
import time

import pytest

import hydragrad as hg
from recording.killing import ORDERS, SCHEDULES, Augmented, Kill, killed, long_loop, server, users_loop
from recording.toys import EPOCHS, PER_EPOCH, build_batch_norm, loss, same_weights


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The same runs, never stopped; each made once."""
    made = {}

    def get(order="global", schedule="lambda"):
        if (order, schedule) not in made:
            path = tmp_path_factory.mktemp("straight") / "run"
            made[order, schedule] = users_loop(path, order, schedule), (path / "steps.jsonl").read_text()
        return made[order, schedule]

    return get


def opened(path):
    return hg.Recording(path, build_batch_norm(), loss, Augmented())


@pytest.mark.parametrize("stop", [Kill("in", 7), Kill("end", 1)], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_a_killed_loop_ends_at_the_same_bits(tmp_path, straight, order, stop):
    killed(users_loop, tmp_path / "run", order, stop=stop)
    with pytest.warns(UserWarning, match="not completed; it is read up to its last complete step"):
        assert len(opened(tmp_path / "run").steps) == (7 if stop.place == "in" else 2 * PER_EPOCH)

    model = users_loop(tmp_path / "run", order, resume=True)
    expected, log = straight(order)
    assert (tmp_path / "run" / "steps.jsonl").read_text() == log
    assert same_weights(model, expected)
    assert opened(tmp_path / "run").completed


@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - {"lambda"}))
def test_a_killed_loop_goes_on_with_its_schedule(tmp_path, straight, schedule):
    killed(users_loop, tmp_path / "run", schedule=schedule, stop=Kill("after", 8), checkpoint_every=1)
    model = users_loop(tmp_path / "run", schedule=schedule, resume=True)
    expected, log = straight("global", schedule)

    assert (tmp_path / "run" / "steps.jsonl").read_text() == log
    assert same_weights(model, expected)


@pytest.mark.parametrize("order", ["global", "loader's"])
def test_the_number_of_workers_may_change(tmp_path, straight, order):
    killed(users_loop, tmp_path / "run", order, stop=Kill("in", 7), workers=2)
    killed(users_loop, tmp_path / "run", order, stop=Kill("in", 12), workers=0, resume=True)
    model = users_loop(tmp_path / "run", order, resume=True, workers=2)
    expected, log = straight(order)

    assert (tmp_path / "run" / "steps.jsonl").read_text() == log
    assert same_weights(model, expected)


@pytest.mark.parametrize("order", ORDERS)
def test_a_completed_loop_can_be_trained_on(tmp_path, straight, order):
    users_loop(tmp_path, order, epochs=EPOCHS - 2)
    model = users_loop(tmp_path, order, resume=True)
    expected, log = straight(order)

    assert (tmp_path / "steps.jsonl").read_text() == log
    assert same_weights(model, expected)


@pytest.mark.parametrize("order", ORDERS)
def test_a_loop_left_inside_an_epoch_goes_on_there(tmp_path, straight, order):
    """A user's own `except KeyboardInterrupt` inside the recorder's block: the run counts as completed."""

    def leave(place, count):
        if (place, count) == ("next", 7):
            raise KeyboardInterrupt

    leaving = hg.Recorder.__exit__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hg.Recorder, "__exit__", lambda recorder, *error: leaving(recorder, None, None, None))
        with pytest.raises(KeyboardInterrupt):
            users_loop(tmp_path, order, stop=leave)
    assert opened(tmp_path).completed
    assert opened(tmp_path).has_checkpoint(7)

    model = users_loop(tmp_path, order, resume=True)
    expected, log = straight(order)
    assert (tmp_path / "steps.jsonl").read_text() == log
    assert same_weights(model, expected)


def test_killed_from_outside_at_any_moment(tmp_path):
    process = server.Process(target=long_loop, args=(tmp_path / "run",))
    process.start()
    log = tmp_path / "run" / "steps.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size > 20_000) and time.monotonic() < deadline:
        time.sleep(0.003)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    lines = log.read_bytes().count(b"\n")
    with pytest.warns(UserWarning, match="not completed"):
        run = opened(tmp_path / "run")
    assert len(run.steps) == lines > 50
    assert run.final.step == lines
    users_loop(tmp_path / "run", epochs=lines // PER_EPOCH + 2, resume=True)
    assert len(opened(tmp_path / "run").steps) == (lines // PER_EPOCH + 2) * PER_EPOCH
