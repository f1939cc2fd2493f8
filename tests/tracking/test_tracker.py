"""The online tracker gives what the recorded run gives, for every model and option set."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

import hydragrad as hg
from attribution import oracle
from cases import ADAPTIVE_CASES, BATCH_SIZE, CASES, EPOCHS, EVERY_MODEL, SEED, STEPS, Case, collate, loop, warmed
from hydragrad.errors import QueryError, RecordingMismatch, ReplayMismatch, RunExists, StepError, Unsupported

MLP = Case("mlp", "all")


class Stop(Exception):
    """The loop was stopped here."""


def queries(case):
    return [hg.mean_loss(case.held_out, "mean"), hg.sample_losses(case.held_out, [3, 5])]


def track(case, *, recorded_in=None, stop_at=None, give_batch=False, scheduler=None, **options):
    """Train the case's loop with a tracker in it, and a recorder in the folder `recorded_in` if there is one."""
    model, train_set = case.build(), case.train_set
    optimizer = case.options.optimizer(model)
    tracker = hg.Tracker(model, optimizer, case.loss, train_set, reduction=case.options.reduction, seed=SEED, **options)
    recorder = None
    if recorded_in is not None:
        recorder = hg.Recorder(
            recorded_in, model, optimizer, case.loss, train_set, reduction=case.options.reduction, seed=SEED
        )

    def one_step(step, indices):
        if step == stop_at:
            raise Stop
        batch = collate(train_set, indices)
        with ExitStack() as stack:
            if recorder is not None:
                stack.enter_context(recorder.step(indices))
            stack.enter_context(tracker.step(indices, batch if give_batch else None))
            optimizer.zero_grad()
            losses = case.loss(model, batch)
            (losses.mean() if case.options.reduction == "mean" else losses.sum()).backward()
            optimizer.step()
        return losses.detach().mean().item()

    try:
        with ExitStack() as stack:
            for observer in filter(None, (recorder, tracker)):
                stack.enter_context(observer)
            loop(case, model, optimizer, one_step, scheduler)
    except Stop:
        pass
    return tracker


@pytest.mark.parametrize("case", [c for c in CASES + ADAPTIVE_CASES if not c.by_train], ids=lambda case: case.name)
def test_rows_without_curvature_give_what_attribute_gives(case, recorded):
    expected = hg.attribute(recorded(case), queries(case)).values
    found = track(case).contributions(queries(case)).values
    assert oracle.relative(found, expected) < 1e-10


@pytest.mark.parametrize(
    "case",
    [c for c in EVERY_MODEL + ADAPTIVE_CASES if c.model.curvature and not c.by_train],
    ids=lambda case: case.name,
)
def test_exact_rows_give_what_the_exact_sweep_gives(case, recorded):
    expected = hg.attribute(recorded(case), queries(case), curvature="hessian").values
    found = track(case, curvature="hessian").contributions(queries(case)).values
    assert oracle.relative(found, expected) < 1e-8


@pytest.mark.parametrize("name", ["mlp", "batch_norm", "dropout", "transformer"])
def test_tracker_and_recorder_around_the_same_steps_are_both_right(name, tmp_path, recorded):
    case = Case(name, "all")
    tracker = track(case, recorded_in=tmp_path / "run", give_batch=True)
    run = hg.Recording(tmp_path / "run", case.build(), case.loss, case.train_set)
    expected = hg.attribute(run, queries(case)).values
    assert oracle.relative(tracker.contributions(queries(case)).values, expected) < 1e-10
    assert oracle.relative(hg.hypergradients(run).contributions(queries(case)).values, expected) < 1e-10


def test_in_our_own_loop(tmp_path):
    case = Case("dropout", "cosine")
    model = case.build()
    optimizer = case.options.optimizer(model)
    with hg.Tracker(model, optimizer, case.loss, case.train_set) as tracker:
        run = hg.train(
            model,
            case.loss,
            case.train_set,
            optimizer,
            epochs=EPOCHS,
            batch_size=BATCH_SIZE,
            out=tmp_path / "run",
            observers=[tracker],
        )
    expected = hg.attribute(run, queries(case)).values
    assert oracle.relative(tracker.contributions(queries(case)).values, expected) < 1e-10


@pytest.mark.parametrize("curvature", ["none", "hessian"])
@pytest.mark.parametrize("name", ["mlp", "batch_norm"])
@pytest.mark.parametrize("options", ["all", "adamw"])
def test_a_tracker_resumed_on_disk_ends_at_the_same_rows(options, name, curvature, tmp_path):
    case = Case(name, options)
    whole = track(case, curvature=curvature)
    track(case, curvature=curvature, store=tmp_path / "store", stop_at=11)
    with pytest.raises(RunExists, match="resume=True"):
        track(case, curvature=curvature, store=tmp_path / "store")
    with pytest.raises(RecordingMismatch, match="begun with other samples"):
        track(case, curvature=curvature, store=tmp_path / "store", resume=True, samples=[1])
    # The loop starts over: the eleven steps that the store holds are passed over.
    again = track(case, curvature=curvature, store=tmp_path / "store", resume=True)
    np.testing.assert_array_equal(again.store.rows, whole.store.rows)
    opened = hg.Store.open(tmp_path / "store", case.build(), case.loss)
    assert torch.equal(opened.contributions(queries(case)).values, whole.contributions(queries(case)).values)
    # A finished store recognises its own run, and takes no other.
    done = track(case, curvature=curvature, store=tmp_path / "store", resume=True)
    assert done.steps == again.steps
    other = Case(name, "momentum" if options == "all" else "amsgrad")
    with pytest.raises(ReplayMismatch, match="repeated with other samples or other weights"):
        track(other, curvature=curvature, store=tmp_path / "store", resume=True)


def test_an_interrupted_store_opens_after_its_last_complete_step(tmp_path):
    shorter = track(MLP, stop_at=11)
    interrupted = track(MLP, store=tmp_path / "store", stop_at=11)
    expected = shorter.contributions(queries(MLP))
    assert not expected.evidence.completed and expected.evidence.steps == 11
    with pytest.warns(UserWarning, match="last complete step, 11"):
        opened = hg.Store.open(tmp_path / "store", MLP.build(), MLP.loss)
    for found in (opened.contributions(queries(MLP)), interrupted.contributions(queries(MLP))):
        assert torch.equal(found.values, expected.values)
        assert torch.equal(found.query_values, expected.query_values)


@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_an_interrupted_store_of_adam_rows_opens_after_its_last_complete_step(curvature, tmp_path):
    case = Case("mlp", "adamw")
    expected = track(case, curvature=curvature, stop_at=11).contributions(queries(case))
    track(case, curvature=curvature, store=tmp_path / "store", stop_at=11)
    with pytest.warns(UserWarning, match="last complete step, 11"):
        opened = hg.Store.open(tmp_path / "store", case.build(), case.loss)
    assert torch.equal(opened.contributions(queries(case)).values, expected.values)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_smaller_number_formats_of_adam_rows(dtype, tolerance):
    case = Case("mlp", "adamw")
    expected = track(case).contributions(queries(case)).values
    assert 0 < oracle.relative(track(case, dtype=dtype).contributions(queries(case)).values, expected) < tolerance


def test_projection_and_schedule_under_adam_are_refused_by_name():
    for options, name in (("adam", "Adam"), ("adamw", "AdamW")):
        case = Case("mlp", options)
        with pytest.raises(QueryError, match=rf"Under {name} every coordinate .* hg\.attribute\(run, query\)"):
            track(case, projection=8)
        schedule = hg.planned(case.options.optimizer(case.build()), steps=STEPS)
        assert len(schedule) == STEPS
        with pytest.raises(QueryError, match=rf"schedule .* under {name} each moves in its own way"):
            track(case, schedule=schedule)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from tracking.test_tracker import MLP, track
import hydragrad.tracking.rows.table as table
real, calls = table.Table._put, []
def put(self, *given):
    calls.append(1)
    if len(calls) == 12:
        real(self, given[0][:1], given[1][:, :1], given[2])
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *given)
table.Table._put = put
track(MLP, store={store!r})
"""


def test_a_tracker_killed_inside_a_step_resumes_to_the_same_rows(tmp_path):
    script = KILLED.format(tests=str(Path(__file__).parents[1]), store=str(tmp_path / "store"))
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    with pytest.warns(UserWarning, match="last complete step, 11"):
        opened = hg.Store.open(tmp_path / "store", MLP.build(), MLP.loss)
    shorter = track(MLP, stop_at=11)
    assert torch.equal(opened.contributions(queries(MLP)).values, shorter.contributions(queries(MLP)).values)
    resumed = track(MLP, store=tmp_path / "store", resume=True)
    np.testing.assert_array_equal(resumed.store.rows, track(MLP).store.rows)


@pytest.mark.parametrize("options", ["all", "two_groups", "late"])
def test_projected_rows_are_projections_of_the_rows(options):
    case = Case("mlp", options)
    if options == "late":
        with pytest.raises(Unsupported, match="a projection can't tell them apart"):
            track(case, projection=16)
        return
    whole, projected = track(case).store, track(case, projection=16).store
    projector = projected.facts.projector(torch.zeros((), dtype=torch.float64))
    expected = projector.flat(torch.from_numpy(np.array(whole.rows))).numpy()
    np.testing.assert_allclose(projected.rows, expected, rtol=1e-9, atol=1e-12)
    assert projected.rows.shape[1] == projector.width < whole.rows.shape[1]


def test_projected_parameters_may_be_unfrozen_late_and_not_frozen_again(monkeypatch):
    from cases import OPTIONS, OptionsCase, plain_sgd

    def unfreeze(step, model, optimizer):
        model[2].bias.requires_grad_(step >= 5)

    def freeze(step, model, optimizer):
        model[2].bias.requires_grad_(step < 9)

    sgd = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}
    for before, options in ((unfreeze, sgd), (freeze, sgd), (unfreeze, sgd | {"dampening": 0.2})):
        monkeypatch.setitem(OPTIONS, "here", OptionsCase(plain_sgd(**options), before_step=before))
        case = Case("mlp", "here")
        whole = track(case).store
        if before is freeze or "dampening" in options:
            with pytest.raises(Unsupported, match="a projection can't tell them apart"):
                track(case, projection=16)
            continue
        projected = track(case, projection=16).store
        projector = projected.facts.projector(torch.zeros((), dtype=torch.float64))
        expected = projector.flat(torch.from_numpy(np.array(whole.rows))).numpy()
        np.testing.assert_allclose(projected.rows, expected, rtol=1e-9, atol=1e-12)


def test_momentum_switched_on_later_survives_on_disk(tmp_path):
    case = Case("mlp", "switched")
    whole = track(case)
    track(case, store=tmp_path / "store", stop_at=9)  # momentum came at step 4 and went at 8
    resumed = track(case, store=tmp_path / "store", resume=True)
    np.testing.assert_array_equal(resumed.store.rows, whole.store.rows)
    assert not list((tmp_path / "store").glob("table-*"))


def test_parameters_given_to_the_optimizer_later_are_refused_by_name(monkeypatch):
    from cases import OPTIONS, OptionsCase

    def add(step, model, optimizer):
        if step == 3:
            optimizer.add_param_group({"params": [model[0].bias]})

    def begin(model):
        return torch.optim.SGD([p for name, p in model.named_parameters() if name != "0.bias"], lr=0.1)

    monkeypatch.setitem(OPTIONS, "here", OptionsCase(begin, before_step=add))
    with pytest.raises(Unsupported, match=r"0\.bias was added to the optimizer at step 3.*from the start"):
        track(Case("mlp", "here"))


@pytest.mark.parametrize("options", ["momentum", "adamw"])
@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_a_closure_gives_the_gradient_that_the_optimizer_gets(options, curvature, recorded):
    case = Case("mlp", options)
    model, train_set = case.build(), case.train_set
    optimizer = case.options.optimizer(model)
    tracker = hg.Tracker(model, optimizer, case.loss, train_set, curvature=curvature, seed=SEED)

    def one_step(step, indices):
        def closure():
            optimizer.zero_grad()
            mean = case.loss(model, collate(train_set, indices)).mean()
            mean.backward()
            return mean

        with tracker.step(indices):
            return optimizer.step(closure).item()

    with tracker:
        loop(case, model, optimizer, one_step)
    expected = hg.attribute(recorded(case), queries(case), curvature=curvature).values
    assert oracle.relative(tracker.contributions(queries(case)).values, expected) < 1e-8


@pytest.mark.parametrize("options", ["momentum", "adamw"])
def test_weights_and_optimizer_state_that_change_between_steps_are_refused(options):
    case = Case("mlp", options)
    for change in (lambda m, o: o.state.clear(), lambda m, o: m[0].weight.data.mul_(2)):
        model, train_set = case.build(), case.train_set
        optimizer = case.options.optimizer(model)
        with (
            pytest.raises(StepError, match=r"outside tracker.step\(\)"),
            hg.Tracker(model, optimizer, case.loss, train_set) as tracker,
        ):
            for _ in range(2):
                with tracker.step([0, 1]):
                    optimizer.zero_grad()
                    case.loss(model, collate(train_set, [0, 1])).mean().backward()
                    optimizer.step()
                change(model, optimizer)


def test_a_state_that_appears_later_is_refused_where_every_step_moves_every_row():
    case = Case("mlp", "amsgrad")
    model, train_set = case.build(), case.train_set
    optimizer = warmed(case.options.optimizer(model), model)
    optimizer.param_groups[0]["amsgrad"] = False
    with (
        pytest.raises(Unsupported, match="max_exp_avg_sq came at step 1"),
        hg.Tracker(model, optimizer, case.loss, train_set) as tracker,
    ):
        for _ in range(2):
            with tracker.step([0, 1]):
                optimizer.zero_grad()
                case.loss(model, collate(train_set, [0, 1])).mean().backward()
                optimizer.step()
            optimizer.param_groups[0]["amsgrad"] = True


def test_bad_input_gets_a_named_error(tmp_path):
    model = MLP.build()
    optimizer = MLP.options.optimizer(model)
    given = (model, optimizer, MLP.loss, MLP.train_set)
    with pytest.raises(QueryError, match="samples 0 to 17"):
        hg.Tracker(*given, samples=[18])
    with pytest.raises(QueryError, match="'none' or 'hessian'"):
        hg.Tracker(*given, curvature="ggn")
    with pytest.raises(ValueError, match="give store="):
        hg.Tracker(*given, resume=True)
    with pytest.raises(Unsupported, match="Rprop has no rule here"):
        hg.Tracker(model, torch.optim.Rprop(model.parameters()), MLP.loss, MLP.train_set)
    tracker = hg.Tracker(*given)
    with pytest.raises(StepError, match="inside `with Tracker"), tracker.step([0]):
        pass
    with pytest.raises(StepError, match="at least one step"):
        tracker.contributions(hg.mean_loss(MLP.held_out))
    with tracker, pytest.raises(StepError, match="exactly one"), tracker.step([0, 1]):
        pass
    with tracker, pytest.raises(QueryError, match="samples 0 to 17"), tracker.step([99]):
        pass


def test_a_tracker_killed_before_its_log_was_there_starts_over(tmp_path, monkeypatch):
    import hydragrad.tracking.online as online

    def killed(path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(online, "AppendOnlyLines", killed)
    with pytest.raises(KeyboardInterrupt):
        track(MLP, store=tmp_path / "store")
    monkeypatch.undo()
    assert not (tmp_path / "store" / "steps.jsonl").exists()
    resumed = track(MLP, store=tmp_path / "store", resume=True)
    np.testing.assert_array_equal(resumed.store.rows, track(MLP).store.rows)
