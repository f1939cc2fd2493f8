"""A changed run is the run repeated with the change, whether it is retrained, read at its end or replayed in parts."""

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import LossError
from hydragrad.replay.changed_run import Change, ChangedRun
from hydragrad.replay.retraining import FOLDER, retrain
from recording.toys import CLASSES, SAMPLES, STEPS, build, loss, samples, train

CHANGES = {
    "weights": Change(weights={0: 0.0, 3: 2.5}),
    "labels": Change(labels={i: (int(samples().tensors[1][i]) + 1) % CLASSES for i in (1, 4, 8)}),
    "noise": Change(noise=1e-3, seed=2),
    "all": Change(weights={0: 0.0}, labels={1: 0, 4: 2}, noise=1e-3),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> hg.Recording:
    return train(tmp_path_factory.mktemp("changed") / "run", checkpoint_every=3)


def retrained(run: hg.Recording, change: Change) -> dict[str, Tensor]:
    ((_, state),) = retrain(run, [change], keep=False)
    return state


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_run_ends_where_the_retraining_ends_and_elsewhere_than_the_run(run, change):
    final = ChangedRun(run, change).final
    assert same(final.parameters | final.buffers, retrained(run, change))
    assert not same(final.parameters, run.final.parameters)


def test_no_change_is_the_run_to_the_bit(run):
    changed = ChangedRun(run, Change(), memory=1 << 30)
    assert same(changed.final.parameters, run.final.parameters)
    assert changed.segments == run.segments


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_its_segments_lead_from_checkpoint_to_checkpoint(run, change):
    changed = ChangedRun(run, change, memory=1 << 30)
    assert [start for start, _ in changed.segments] == [start for start, _ in run.segments]
    with changed.replay() as replay:
        for start, stop in changed.segments:
            replay.trajectory.restore(changed.checkpoint(start))
            for record in changed.steps[start:stop]:
                replay.advance(record, changed.batches(record))
            replay.check_against(changed.checkpoint(stop))
    assert replay.drift == 0


def test_checkpoints_that_do_not_fit_into_memory_are_thinned_out(run):
    whole, half, none = (ChangedRun(run, CHANGES["weights"], memory=size) for size in (1 << 30, 1_500, 0))
    assert len(none.segments) == 1 < len(half.segments) < len(whole.segments)
    assert none.segments == [(0, STEPS)]
    assert none.has_checkpoint(0) and none.has_checkpoint(STEPS) and not none.has_checkpoint(3)


def test_labels_are_those_of_a_data_set_with_them(run, tmp_path):
    x, y = samples().tensors
    changed = y.clone()
    for sample, label in CHANGES["labels"].labels.items():
        changed[sample] = label
    relabelled = train(tmp_path / "run", data=TensorDataset(x, changed))
    assert same(retrained(run, CHANGES["labels"]), relabelled.final.parameters | relabelled.final.buffers)


def test_contributions_are_derivatives_at_the_changed_run(run):
    query = hg.mean_loss(samples())
    at_run, at_changed = (hg.attribute(each, query, curvature="hessian") for each in (run, ChangedRun(run, Change())))
    assert torch.equal(at_run.values, at_changed.values)
    elsewhere = hg.attribute(ChangedRun(run, CHANGES["labels"]), query, curvature="hessian")
    assert (elsewhere.values - at_run.values).norm() > 1e-2 * at_run.values.norm()


def test_every_change_of_every_run_has_its_own_digest(run):
    changed = [ChangedRun(run, change) for change in CHANGES.values()]
    assert len({each.digest for each in [run, *changed]}) == 1 + len(CHANGES)
    assert ChangedRun(run, Change(weights={3: 2.5, 0: 0.0})).digest == changed[0].digest


def test_final_states_are_saved_and_made_again_where_damaged(run):
    changes = [CHANGES["weights"], CHANGES["labels"]]
    states = dict(retrain(run, changes, keep=True))
    first, _ = files = sorted((run.path / FOLDER).iterdir())
    content = first.read_bytes()
    first.write_bytes(content[:-5])
    again = dict(retrain(run, changes, keep=True))
    assert all(same(again[number], states[number]) for number in range(2))
    assert first.read_bytes() == content and sorted((run.path / FOLDER).iterdir()) == files


def test_labels_need_a_place_in_the_batch(tmp_path):
    x, _ = samples().tensors
    model = build()

    def first_class(model, batch):
        return loss(model, (batch[0], torch.zeros(len(batch[0]), dtype=torch.int64)))

    run = hg.train(
        model,
        first_class,
        TensorDataset(x, torch.zeros(SAMPLES, 1)),
        torch.optim.SGD(model.parameters(), lr=0.1),
        epochs=1,
        batch_size=5,
        out=tmp_path / "run",
    )
    with pytest.raises(LossError, match="Other labels need integer labels"):
        retrained(run, CHANGES["labels"])
