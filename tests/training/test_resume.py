"""A killed or interrupted hg.train ends, resumed, at the bits of a run that was never stopped."""

import pytest

from hydragrad.recording.manifest import read_manifest
from hydragrad.training import epoch_logs
from recording.killed import killed
from recording.runs import (
    EPOCHS,
    SAMPLES,
    SCHEDULES,
    STEPS,
    Stop,
    assert_bit_equal,
    assert_replays_to,
    assert_same_run,
    digests,
    train_run,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that were never stopped, each made once."""
    made = {}

    def get(schedule="none", **options):
        key = (schedule, *options)
        if key not in made:
            made[key] = train_run(tmp_path_factory.mktemp("whole") / "run", schedule, **options)
        return made[key]

    return get


@pytest.mark.parametrize("stop", [Stop("in the step", 6), Stop("monitor", 1)], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_killed_run_resumes_to_the_same_bits(tmp_path, whole, schedule, stop):
    killed(train_run, tmp_path / "run", schedule, stop)
    resumed = train_run(tmp_path / "run", schedule, resume=True)

    assert_same_run(resumed, whole(schedule), "epochs.jsonl")
    assert_replays_to(resumed[2], *resumed[:2])


STOPS = [
    Stop("before the step", 0),
    Stop("in the step", 0),
    Stop("in the step", 3),
    Stop("monitor", 0),
    Stop("monitor", EPOCHS - 1),
    Stop("before the step", STEPS - 1),
]


@pytest.mark.parametrize("checkpoint_every", [1, 3, 100])
@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_interrupted_run_resumes_to_the_same_bits(tmp_path, whole, stop, checkpoint_every):
    with pytest.raises(KeyboardInterrupt):
        train_run(
            tmp_path, "step", Stop(stop.place, stop.count, "interrupt"), checkpoint_every=checkpoint_every
        )
    assert read_manifest(tmp_path).status == "interrupted"
    resumed = train_run(tmp_path, "step", checkpoint_every=checkpoint_every, resume=True)

    assert_same_run(resumed, whole("step"), "epochs.jsonl")


@pytest.mark.parametrize("item", [0, 2 * SAMPLES + 20])
def test_killed_in_the_data_set(tmp_path, whole, item):
    killed(train_run, tmp_path / "run", "step", Stop("item", item), augmented=True)
    resumed = train_run(tmp_path / "run", "step", augmented=True, resume=True)

    assert_same_run(resumed, whole("step", augmented=True), "epochs.jsonl")
    assert_replays_to(resumed[2], *resumed[:2])


def test_killed_again_and_again(tmp_path, whole):
    for stop in (Stop("monitor", 0), Stop("in the step", 2), Stop("monitor", 1), Stop("before the step", 0)):
        killed(train_run, tmp_path / "run", "plateau", stop, resume=True)
    assert_same_run(train_run(tmp_path / "run", "plateau", resume=True), whole("plateau"), "epochs.jsonl")


def test_resuming_a_completed_run_does_nothing(tmp_path):
    model, _, _ = train_run(tmp_path, "step")
    before = digests(tmp_path)
    again, _, run = train_run(tmp_path, "step", resume=True)

    assert digests(tmp_path) == before
    assert_bit_equal(again.state_dict(), model.state_dict())
    assert run.completed


def test_a_completed_run_can_be_trained_on(tmp_path, whole):
    train_run(tmp_path, "step", epochs=1)
    assert_same_run(train_run(tmp_path, "step", resume=True), whole("step"), "epochs.jsonl")


def test_a_torn_epoch_log_is_written_again(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        train_run(tmp_path, "step", Stop("in the step", 10, "interrupt"), checkpoint_every=100)
    log = tmp_path / "epochs.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    resumed = train_run(tmp_path, "step", checkpoint_every=100, resume=True)

    assert_same_run(resumed, whole("step"), "epochs.jsonl")
    assert [entry["epoch"] for entry in epoch_logs(tmp_path)] == list(range(EPOCHS))
