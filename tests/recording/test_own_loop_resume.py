"""A killed or interrupted loop of one's own ends, resumed, at the bits of a loop that was never stopped."""

import warnings
from pathlib import Path

import pytest
import torch

import hydragrad as hg
from hydragrad.errors import RecordingMismatch
from hydragrad.recording.manifest import read_manifest
from recording.killed import killed
from recording.runs import (
    EPOCHS,
    PER_EPOCH,
    Augmented,
    Stop,
    assert_bit_equal,
    assert_replays_to,
    assert_same_run,
    digests,
    linear,
    loss,
    net,
    own_loop,
    plain_loop,
    points,
    sgd,
)

ORDERS = ["global", "own", "sampler"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that were never stopped, each made once."""
    made = {}

    def get(order="global", schedule="step", epochs=EPOCHS, **options):
        key = (order, schedule, epochs)
        if key not in made:
            made[key] = own_loop(tmp_path_factory.mktemp("whole") / "run", order, schedule, epochs=epochs, **options)
        return made[key]

    return get


STOPS = [
    Stop("before", 0),
    Stop("in", 0),
    Stop("in", 6),
    Stop("after", PER_EPOCH + 3),
    Stop("validation", 1),
    Stop("end", 1),
    Stop("before", 2 * PER_EPOCH),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_killed_loop_resumes_to_the_same_bits(tmp_path, whole, order, stop):
    killed(own_loop, tmp_path / "run", order, stop=stop)
    assert_same_run(own_loop(tmp_path / "run", order, resume=True), whole(order))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_interrupted_loop_resumes_to_the_same_bits(tmp_path, whole, order, stop):
    with pytest.raises(KeyboardInterrupt):
        own_loop(tmp_path / "run", order, stop=Stop(stop.place, stop.count, "interrupt"))
    assert read_manifest(tmp_path / "run").status == "interrupted"

    assert_same_run(own_loop(tmp_path / "run", order, resume=True), whole(order))


@pytest.mark.parametrize("schedule", ["none", "one cycle", "plateau", "milestones", "sequence", "lambda"])
def test_killed_loop_resumes_with_every_scheduler(tmp_path, whole, schedule):
    killed(own_loop, tmp_path / "run", schedule=schedule, stop=Stop("after", 7), checkpoint_every=1)
    assert_same_run(own_loop(tmp_path / "run", schedule=schedule, resume=True), whole(schedule=schedule))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("order", ORDERS)
def test_the_number_of_workers_may_change_on_resume(tmp_path, whole, order, workers):
    killed(own_loop, tmp_path / "run", order, workers=2 - workers, stop=Stop("in", 6))
    assert_same_run(own_loop(tmp_path / "run", order, workers=workers, resume=True), whole(order))


@pytest.mark.parametrize("checkpoint_every", [1, 3, 100])
def test_killed_twice(tmp_path, whole, checkpoint_every):
    options = {"order": "own", "checkpoint_every": checkpoint_every}
    killed(own_loop, tmp_path / "run", **options, stop=Stop("after", 6))
    killed(own_loop, tmp_path / "run", **options, stop=Stop("in", 10), resume=True)
    resumed = own_loop(tmp_path / "run", **options, resume=True)

    assert_same_run(resumed, whole("own"))
    assert_replays_to(resumed[2], *resumed[:2])


def test_resuming_where_nothing_is_simply_starts(tmp_path, whole):
    assert_same_run(own_loop(tmp_path / "new" / "run", resume=True), whole())


def test_resuming_a_completed_run_does_nothing(tmp_path):
    model, optimizer, _ = own_loop(tmp_path)
    before = digests(tmp_path)
    again, _, run = own_loop(tmp_path, resume=True)

    assert digests(tmp_path) == before
    assert_bit_equal(again.state_dict(), model.state_dict())
    assert run.completed


@pytest.mark.parametrize("order", ORDERS)
def test_a_completed_run_can_be_trained_on(tmp_path, whole, order):
    own_loop(tmp_path, order, epochs=EPOCHS - 2)
    assert_same_run(own_loop(tmp_path, order, resume=True), whole(order))


@pytest.mark.parametrize("order", ORDERS)
def test_a_loop_left_inside_an_epoch_goes_on_there(tmp_path, whole, order):
    """A user's `except KeyboardInterrupt` inside the recorder's block."""

    class Enough(Exception):
        pass

    def stop(place, count):
        if (place, count) == ("after", 6):
            raise Enough

    original = hg.Recorder.__exit__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hg.Recorder, "__exit__", lambda self, *error: original(self, None, None, None))
        with pytest.raises(Enough):
            own_loop(tmp_path, order, "none", stop=stop)

    assert read_manifest(tmp_path).status == "completed"
    resumed, expected = own_loop(tmp_path, order, "none", resume=True), whole(order, "none")
    assert [record.indices for record in resumed[2].steps] == [record.indices for record in expected[2].steps]


def test_the_model_given_to_a_resumed_run_may_be_anything(tmp_path):
    train_set = points()
    model, optimizer = net(), None
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, train_set, seed=1) as recorder:
        plain_loop(recorder, model, optimizer, train_set)

    other = net(seed=5).eval()
    with torch.no_grad():
        loss(other, train_set.tensors)
    again = sgd(other, lr=7.0, momentum=0.0)
    with hg.Recorder(tmp_path, other, again, loss, train_set, resume=True) as recorder:
        assert recorder.next_step == 3
        assert_bit_equal(other.state_dict(), model.state_dict())
        assert other.training
        assert again.param_groups[0]["lr"] == 0.1
        assert again.param_groups[0]["momentum"] == 0.9


# --- what must be the same


def recorded(path: Path, **options):
    train_set, model = points(), linear()
    optimizer = sgd(model)
    with hg.Recorder(path, model, optimizer, loss, train_set, **options) as recorder:
        plain_loop(recorder, model, optimizer, train_set)
    return digests(path)


def refused(path: Path, message: str, *, model=None, train_set=None, optimizer=None, **options):
    before, model = digests(path), model or linear()
    with (
        pytest.raises(RecordingMismatch, match=message),
        hg.Recorder(path, model, optimizer or sgd(model), loss, train_set or points(), resume=True, **options),
    ):
        pass
    assert digests(path) == before


def test_another_model_is_refused(tmp_path):
    recorded(tmp_path)
    refused(tmp_path, r"recorded with 15 numbers in parameters; this model has 12 \(missing: bias\)", model=_no_bias())


def _no_bias():
    return torch.nn.Linear(4, 3, bias=False)


def test_other_data_are_refused(tmp_path):
    recorded(tmp_path)
    refused(tmp_path, "other data .20 samples; this data set has 21", train_set=points(samples=21))
    refused(tmp_path, "other data .20 samples; this data set has 20, or other content", train_set=points(seed=4))


def test_another_reduction_is_refused(tmp_path):
    recorded(tmp_path)
    refused(tmp_path, "recorded with reduction='mean', not 'sum'", reduction="sum")


def test_another_seed_is_refused(tmp_path):
    recorded(tmp_path, seed=4)
    refused(tmp_path, "recorded with seed=4, not 5", seed=5)


def test_other_parameter_groups_are_refused(tmp_path):
    recorded(tmp_path)
    model = linear()
    optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1)
    before = digests(tmp_path)
    with (
        pytest.raises(RecordingMismatch, match="had 1 parameter groups before step 3; this optimizer has 2"),
        hg.Recorder(tmp_path, model, optimizer, loss, points(), resume=True),
    ):
        pass
    assert digests(tmp_path) == before


def test_unseeded_data_resume_with_stored_batches(tmp_path):
    class Unseeded(Augmented):
        drawn = 0

        def __getitem__(self, index):
            Unseeded.drawn += 1
            x, y = self._points[index]
            return x + 0.01 * Unseeded.drawn, y

    train_set, model = Unseeded(), linear()
    optimizer = sgd(model)
    for resume in (False, True):
        with hg.Recorder(
            tmp_path, model, optimizer, loss, train_set, store_batches=True, resume=resume
        ) as recorder:
            plain_loop(recorder, model, optimizer, train_set)

    run = hg.Recording(tmp_path, model, loss, train_set)
    assert len(run.steps) == 6
    assert_replays_to(run, model, optimizer)


def test_a_resumed_run_goes_on_with_the_recorded_threads(tmp_path):
    recorded(tmp_path)
    train_set, model = points(), linear()
    optimizer = sgd(model)
    torch.set_num_threads(2)
    try:
        with hg.Recorder(tmp_path, model, optimizer, loss, train_set, resume=True) as recorder:
            assert torch.get_num_threads() == 1
            plain_loop(recorder, model, optimizer, train_set)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_an_epochs_end_before_any_step_of_the_process_warns_of_nothing(tmp_path):
    """The scheduler steps first when a run resumes between an epoch's last step and its end."""
    train_set, model = points(), linear()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with hg.Recorder(tmp_path, model, optimizer, loss, train_set, scheduler=scheduler) as recorder:
        plain_loop(recorder, model, optimizer, train_set)

    model = linear()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with hg.Recorder(tmp_path, model, optimizer, loss, train_set, scheduler=scheduler, resume=True):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler.step()
