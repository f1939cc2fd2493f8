"""The labels that a run was trained on, against what was put into its items; relabelling against real training."""

import warnings

import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

import hydragrad as hg
from hydragrad.errors import LossError
from hydragrad.replay import label_of, labels_of
from hydragrad.replay.labels import own_labels
from labelled_items import CLASSES, LAYOUTS, SAMPLES, Items, held_out, loss_of, model, train, vectors


@pytest.mark.parametrize("name", LAYOUTS)
def test_labels_are_what_the_run_was_trained_on(name, tmp_path):
    run, (_, given) = train(LAYOUTS[name], tmp_path / "run"), vectors(SAMPLES, 1)
    assert labels_of(run).tolist() == given
    assert labels_of(run, [7, 2]).tolist() == [given[7], given[2]]
    assert labels_of(run, []).tolist() == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_label_changes_the_run_as_training_with_it_does(name, tmp_path):
    layout, (x, given) = LAYOUTS[name], vectors(SAMPLES, 1)
    run, query = train(layout, tmp_path / "run"), hg.mean_loss(held_out(layout))
    new = {3: (given[3] + 1) % CLASSES, 8: (given[8] + 2) % CLASSES}
    measured = hg.counterfactual(run, [[3, 8]], query, labels=new)
    changed = train(layout, tmp_path / "changed", Items(layout, x, [new.get(i, y) for i, y in enumerate(given)]))
    value = hg.attribute(changed, query).query_values - hg.attribute(run, query).query_values
    torch.testing.assert_close(measured.values[:, 0], value, rtol=1e-9, atol=1e-12)
    assert value.abs() > 1e-3
    assert labels_of(run).tolist() == given


def test_parts_of_data_sets_have_their_labels(tmp_path):
    layout, (x, given) = LAYOUTS["x, length, y"], vectors(SAMPLES, 1)
    items = Items(layout, x, given)
    parts = ConcatDataset([Subset(items, range(10, SAMPLES)), Subset(items, range(10))])
    assert labels_of(train(layout, tmp_path / "run", parts)).tolist() == given[10:] + given[:10]


class WithTargets(Items):
    targets = [0] * SAMPLES


class Transformed(WithTargets):
    target_transform = len


def test_a_list_of_labels_that_says_something_else_is_warned_of(tmp_path):
    layout = LAYOUTS["x, y, index"]
    data = WithTargets(layout, *vectors(SAMPLES, 1))
    run = train(layout, tmp_path / "run", data)
    with pytest.warns(UserWarning, match=r"own list of labels differs .* for \d+ of 18 samples .*they are taken"):
        assert labels_of(run).tolist() == data.labelled
    data.targets = torch.tensor(data.labelled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels_of(run)


def test_the_list_of_labels_of_a_data_set():
    layout, (x, given) = LAYOUTS["x, y, index"], vectors(SAMPLES, 1)
    data = WithTargets(layout, x, given)
    assert own_labels(data).tolist() == [0] * SAMPLES
    assert own_labels(Subset(data, [4, 1])).tolist() == [0, 0]
    assert own_labels(Transformed(layout, x, given)) is None
    for other in (["cat"] * SAMPLES, [0, 1], None, [0.5] * SAMPLES):
        data.targets = other
        assert own_labels(data) is None


def test_two_targets_and_none_are_refused_by_name(tmp_path):
    x, given = vectors(SAMPLES, 1)
    y, group = torch.tensor(given), torch.arange(SAMPLES) % 2
    layout = LAYOUTS["smoothed"]

    def both(model, batch):
        logits = model(batch[0])
        return layout.loss(logits, batch[1]) + layout.loss(-logits, batch[2])

    trained = model()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    data = TensorDataset(x, y, group)
    run = hg.train(trained, both, data, optimizer, epochs=1, batch_size=6, out=tmp_path / "run")
    query = hg.mean_loss(TensorDataset(*(tensor[:5].clone() for tensor in data.tensors)))
    with pytest.raises(LossError, match=r"compares the output with 2: \[1\] and \[2\]"):
        labels_of(run)
    with pytest.raises(LossError, match=r"Other labels need integer labels.*\[1\] and \[2\]"):
        hg.counterfactual(run, [[3]], query, labels={3: 1})
    with pytest.raises(LossError, match=r"\[1\] and \[2\]"):
        hg.suspects(run, hg.attribute(run, query))


def test_a_label_that_the_model_has_no_output_for_is_refused(tmp_path):
    layout = LAYOUTS["x, y, index"]
    run = train(layout, tmp_path / "run")
    with pytest.raises(LossError, match="Labels must be 0 to 2, as the model has 3 outputs; got 3"):
        hg.counterfactual(run, [[3]], hg.mean_loss(held_out(layout)), labels={3: CLASSES})


def test_the_data_set_of_the_user_keeps_its_labels_where_collate_returns_its_own_tensors(tmp_path):
    x, given = vectors(SAMPLES, 1)
    batch = [x, torch.tensor(given)]
    layout, trained = LAYOUTS["x, y, index"], model()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.3)
    whole, items = (lambda _: batch), Items(layout, x, given)
    with hg.Recorder(tmp_path / "run", trained, optimizer, loss_of(layout), items, collate=whole) as recorder:
        for _ in range(3):
            with recorder.step(range(SAMPLES)):
                optimizer.zero_grad()
                loss_of(layout)(trained, batch).mean().backward()
                optimizer.step()
    run = hg.Recording(tmp_path / "run", trained, loss_of(layout), items, collate=whole)
    query = hg.query("weights", lambda model: sum(p.square().sum() for p in model.parameters()))
    changed = hg.counterfactual(run, [[3]], query, labels={3: (given[3] + 1) % CLASSES})
    assert changed.values.abs() > 1e-4
    assert batch[1].tolist() == given and label_of(run).name == "[1]"


def test_a_collate_that_returns_other_samples_is_refused(tmp_path):
    layout, (x, given) = LAYOUTS["x, y, index"], vectors(SAMPLES, 1)
    trained, data, loss = model(), Items(layout, x, given), loss_of(LAYOUTS["x, y, index"])
    run = hg.train(
        trained,
        loss,
        data,
        torch.optim.SGD(trained.parameters(), lr=0.1),
        epochs=1,
        batch_size=6,
        out=tmp_path / "run",
        collate=lambda items: default_collate(items[:6]),
    )
    assert labels_of(run, [4, 5]).tolist() == given[4:6]
    with pytest.raises(LossError, match=r"collate must return one label a sample, 18; tensor \[1\] .* holds 6"):
        labels_of(run)
