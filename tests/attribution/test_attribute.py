"""What must not change the scores: order, other queries, choice of samples, checkpoints, memory; what is refused."""

import copy
import sys

import pytest
import torch

import hydragrad as hg
from attribution import oracle
from cases import BATCH_SIZE, EPOCHS, SAMPLES, STEPS, Case, record
from hydragrad.attribution.gradients import QueryGradients
from hydragrad.attribution.plan import Plan, make_plan
from hydragrad.attribution.segments import choose_route, sum_segments
from hydragrad.attribution.sweep import sweep
from hydragrad.derivatives import Layout
from hydragrad.errors import QueryError
from hydragrad.replay.histories import run_histories
from hydragrad.replay.trajectory import Trajectory
from hydragrad.scores import Method, Note, QueryPoint

CURVATURES = ("none", "hessian", "ggn")
MLP = Case("mlp", "two_groups")


def planned(run: hg.Recording, query) -> tuple[Plan, QueryGradients]:
    """One attribution without curvature, planned by hand."""
    histories = run_histories(run)
    shapes = {name: value.shape for name, value in run.final.parameters.items()}
    weights = Layout({name: shapes[name] for history in histories for name in history.names})
    point = QueryPoint(
        model=run.model,
        loss=run.loss,
        parameters=run.final.parameters,
        buffers=run.final.buffers,
        weights=weights,
        statistics=Layout({}),
        fetch=lambda dataset, indices: dataset[list(indices)],
    )
    plan = Plan(
        run=run,
        method=Method(),
        histories=histories,
        weights=weights,
        statistics=Layout({}),
        sample_ids=torch.arange(SAMPLES),
    )
    return plan, QueryGradients.of(list(query.rows(point)))


@pytest.fixture
def advances(monkeypatch):
    """The steps that are replayed, in order."""
    seen: list[int] = []
    original = Trajectory.advance

    def counted(self, step, *args, **kwargs):
        seen.append(step.step)
        return original(self, step, *args, **kwargs)

    monkeypatch.setattr(Trajectory, "advance", counted)
    return seen


@pytest.mark.parametrize("route", ["hooks", "jvp"])
def test_segments_may_come_in_any_order(route, recorded):
    run = recorded(MLP)
    plan, gradients = planned(run, hg.mean_loss(MLP.held_out))
    assert len(run.segments) > 3 and len(plan.histories) == 2
    expected = hg.attribute(run, hg.mean_loss(MLP.held_out)).values
    order = run.segments[1::2] + run.segments[::2][::-1]
    assert sorted(order) == run.segments and order != run.segments
    tally, drift, exact = sum_segments(plan, gradients, route, order)
    assert oracle.relative(-tally.values, expected) < 1e-12
    assert drift == 0.0 and exact


def test_segments_add_up(recorded):
    plan, gradients = planned(recorded(MLP), hg.mean_loss(MLP.held_out))
    parts = [sum_segments(plan, gradients, "jvp", [segment]).tally.values for segment in plan.run.segments]
    whole = sum_segments(plan, gradients, "jvp", plan.run.segments).tally
    assert oracle.relative(sum(parts), whole.values) < 1e-12


def test_the_route_comes_with_a_reason(recorded):
    route, reason = choose_route(planned(recorded(MLP), hg.mean_loss(MLP.held_out))[0])
    assert route == "hooks" and "agree with the backward pass" in reason


@pytest.mark.parametrize("curvature", CURVATURES)
def test_many_queries_are_each_query_alone(curvature, recorded):
    run, held_out = recorded(MLP), MLP.held_out
    queries = [
        hg.mean_loss(held_out, "held out"),
        hg.sample_losses(held_out, [8, 0]),
        hg.query("norm", lambda model: sum(p.square().sum() for p in model.parameters())),
    ]
    together = hg.attribute(run, queries, curvature=curvature)
    alone = [hg.attribute(run, query, curvature=curvature) for query in queries]
    assert together.query_names == ("held out", "loss of sample 8", "loss of sample 0", "norm")
    assert oracle.relative(together.values, torch.cat([scores.values for scores in alone])) < 1e-12
    torch.testing.assert_close(together.query_values, torch.cat([scores.query_values for scores in alone]))


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("samples", [[11, 2, 5], torch.tensor([0]), range(SAMPLES)])
def test_chosen_samples_are_columns_of_all(curvature, samples, recorded):
    run, query = recorded(MLP), hg.mean_loss(MLP.held_out)
    everything = hg.attribute(run, query, curvature=curvature)
    chosen = hg.attribute(run, query, curvature=curvature, samples=samples)
    ids = torch.as_tensor(samples)
    assert everything.sample_ids.tolist() == list(range(SAMPLES))
    assert chosen.sample_ids.tolist() == ids.tolist()
    assert oracle.relative(chosen.values, everything.values[:, ids]) < 1e-12


def test_segments_without_the_chosen_samples_are_not_replayed(tmp_path, advances):
    run = record(MLP, tmp_path / "run", checkpoint_every=1)
    sampled = [record.step for record in run.steps if 3 in record.indices]
    assert len(sampled) == EPOCHS
    advances.clear()
    hg.attribute(run, hg.mean_loss(MLP.held_out), samples=[3], route="jvp")
    assert advances == sampled


@pytest.mark.parametrize("curvature", CURVATURES)
def test_checkpoints_anywhere_agree(curvature, tmp_path, recorded):
    query = hg.mean_loss(MLP.held_out)
    expected = hg.attribute(recorded(MLP), query, curvature=curvature).values
    for every in (1, 3, 100):
        run = record(MLP, tmp_path / str(every), checkpoint_every=every)
        assert len(run.segments) == -(-STEPS // every)
        assert oracle.relative(hg.attribute(run, query, curvature=curvature).values, expected) < 1e-12


@pytest.mark.parametrize("room", range(1, STEPS))
def test_little_memory_makes_the_sweep_replay_again(room, recorded, advances):
    """One segment of 16 steps, and memory for `room` states (never less than two)."""
    case = Case("mlp", "all")
    query = [hg.mean_loss(case.held_out), hg.sample_losses(case.held_out, [1])]
    expected = hg.attribute(recorded(case), query, curvature="hessian").values
    run = recorded_in_one_segment(case, recorded)
    advances.clear()
    memory = room * run.initial.bytes
    assert oracle.relative(hg.attribute(run, query, curvature="hessian", memory=memory).values, expected) < 1e-12
    assert len(advances) > STEPS
    assert set(advances) == set(range(STEPS))


def recorded_in_one_segment(case, recorded):
    """A copy of the recording whose only segment is the whole run."""
    run = copy.copy(recorded(case))
    run._digests = {step: digest for step, digest in run._digests.items() if step in (0, STEPS)}
    assert run.segments == [(0, STEPS)]
    return run


@pytest.mark.parametrize("curvature", ["none", "ggn"])
def test_a_call_makes_one_plan_however_many_chunks_the_queries_take(curvature, recorded, monkeypatch):
    plans, module = [], sys.modules["hydragrad.attribution.attribute"]

    def counted(*args, **options):
        plans.append(make_plan(*args, **options))
        return plans[-1]

    monkeypatch.setattr(module, "make_plan", counted)
    scores = hg.attribute(recorded(MLP), hg.sample_losses(MLP.held_out, range(5)), curvature=curvature, memory=1)
    assert len(scores.query_names) == 5 and len(plans) == 1


def test_one_byte_of_memory_is_enough(recorded):
    query = [hg.mean_loss(MLP.held_out), hg.sample_losses(MLP.held_out, [1, 2])]
    for curvature in CURVATURES:
        expected = hg.attribute(recorded(MLP), query, curvature=curvature)
        frugal = hg.attribute(recorded(MLP), query, curvature=curvature, memory=1)
        assert oracle.relative(frugal.values, expected.values) < 1e-12
        assert frugal.query_names == expected.query_names


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", ["batch_norm", "dropout"])
def test_model_and_generators_are_left_alone(name, curvature, recorded):
    case = Case(name, "all")
    run = recorded(case)
    before = copy.deepcopy(run.model.state_dict())
    torch.manual_seed(12)
    state = torch.get_rng_state()
    hg.attribute(run, hg.mean_loss(case.held_out), curvature=curvature)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert all(module.training for module in run.model.modules())
    assert all(not module._forward_hooks for module in run.model.modules())


def test_a_sample_that_was_never_sampled_contributes_nothing(recorded):
    case = Case("mlp", "replacement")
    run = recorded(case)
    sampled = {i for step in run.steps for i in step.indices}
    twice = any(len(set(step.indices)) < BATCH_SIZE for step in run.steps[::4])
    assert twice, "the case should have a sample twice in one batch"
    for curvature in CURVATURES:
        values = hg.attribute(run, hg.mean_loss(case.held_out), curvature=curvature).values[0]
        assert {i for i, value in enumerate(values.tolist()) if value == 0.0} == set(range(SAMPLES)) - sampled


def test_evidence_says_what_was_done(recorded):
    scores = hg.attribute(recorded(MLP), hg.mean_loss(MLP.held_out), curvature="ggn", damping=0.2)
    evidence = scores.evidence
    assert (evidence.curvature, evidence.damping, evidence.route, evidence.steps) == ("ggn", 0.2, "sweep", STEPS)
    assert evidence.completed and evidence.replay_exact and evidence.replay_drift == 0.0
    assert evidence.notes == () and evidence.scale_is_measured


def test_the_method_goes_into_the_plan_and_the_evidence(recorded, monkeypatch):
    run, query, methods = recorded(MLP), hg.mean_loss(MLP.held_out), []

    def spied(plan, gradients, **options):
        methods.append(plan.method)
        return sweep(plan, gradients, **options)

    monkeypatch.setattr(sys.modules["hydragrad.attribution.attribute"], "sweep", spied)
    scores = hg.attribute(run, query, curvature="ggn", damping=0.2, smoothing=0.0)
    assert methods == [Method.of("ggn", damping=0.2, smoothing=0.0)] == [scores.evidence.method]
    assert scores.evidence.smoothing == 0.0
    assert torch.equal(scores.values, hg.attribute(run, query, curvature="ggn", damping=0.2).values), "SGD has none"
    with pytest.raises(QueryError, match="smoothing must be finite and not negative"):
        hg.attribute(run, query, smoothing=-0.1)


def test_an_unfinished_run_is_attributed_up_to_its_last_step(tmp_path):
    case = Case("mlp", "momentum")
    model, train_set = case.build(), case.train_set
    optimizer = case.options.optimizer(model)
    with pytest.raises(KeyboardInterrupt), hg.Recorder(tmp_path, model, optimizer, case.loss, train_set) as recorder:
        for indices in case.batches(0):
            with recorder.step(indices):
                optimizer.zero_grad()
                case.loss(model, train_set[indices]).mean().backward()
                optimizer.step()
        raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="was not completed"):
        run = hg.Recording(tmp_path, case.build(), case.loss, train_set)
    evidence = hg.attribute(run, hg.mean_loss(case.held_out)).evidence
    assert not evidence.completed and evidence.steps == 4
    assert Note("interrupted", "The run was interrupted; this is its state after step 4.") in evidence.notes


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([0, SAMPLES], rf"trained on samples 0 to {SAMPLES - 1}, got \[{SAMPLES}\]"),
        ([-1], r"got \[-1\]"),
        ([3, 4, 3], "got some twice"),
        ([], "got none"),
    ],
)
def test_impossible_sample_ids_are_refused(samples, message, recorded):
    with pytest.raises(QueryError, match=message):
        hg.attribute(recorded(MLP), hg.mean_loss(MLP.held_out), samples=samples)


def test_wrong_queries_and_options_are_refused(recorded):
    run, query = recorded(MLP), hg.mean_loss(MLP.held_out)
    with pytest.raises(QueryError, match="one of none, hessian, ggn, got 'fisher'"):
        hg.attribute(run, query, curvature="fisher")
    with pytest.raises(QueryError, match="damping is added to the curvature"):
        hg.attribute(run, query, damping=0.1)
    with pytest.raises(QueryError, match=r"made by hg.mean_loss.*got no query"):
        hg.attribute(run, [])
    with pytest.raises(QueryError, match=r"made by hg.mean_loss.*got str"):
        hg.attribute(run, [query, "accuracy"])
    with pytest.raises(QueryError, match="does not depend on the trained parameters"):
        hg.attribute(run, hg.query("constant", lambda model: torch.tensor(1.0, dtype=torch.float64)))


def test_wrong_route_is_refused(recorded):
    with pytest.raises(QueryError, match="route must be one of auto, hooks, jvp, samples, got 'hook'"):
        hg.attribute(recorded(MLP), hg.mean_loss(MLP.held_out), route="hook")


@pytest.mark.parametrize("curvature", CURVATURES)
def test_stretches_add_up_to_the_whole(curvature, recorded):
    run = recorded(MLP)
    query = hg.mean_loss(MLP.held_out)
    whole = hg.attribute(run, query, curvature=curvature)
    assert whole.over_time is None
    stretched = hg.attribute(run, query, curvature=curvature, stretches=EPOCHS)
    assert torch.equal(stretched.values, whole.values), "stretches change nothing"
    assert stretched.over_time.shape == (1, EPOCHS, SAMPLES)
    assert oracle.relative(stretched.over_time.double().sum(1), whole.values) < 1e-6
    assert stretched.over_time.abs().sum(2).min() > 0


def test_a_stretch_is_the_sum_over_its_steps(recorded):
    """Steps one by one add up to what each segment of the run gives by itself."""
    run = recorded(MLP)
    query = hg.mean_loss(MLP.held_out)
    steps = hg.attribute(run, query, stretches=STEPS).over_time.double()
    plan, gradients = planned(run, query)
    for start, stop in run.segments:
        alone = -sum_segments(plan, gradients, "jvp", [(start, stop)]).tally.values
        assert oracle.relative(steps[:, start:stop].sum(1), alone) < 1e-6
    sampled = torch.zeros(STEPS, SAMPLES, dtype=torch.bool)
    for record_ in run.steps:
        sampled[record_.step, record_.indices] = True
    assert not steps[0][~sampled].any(), "a step adds nothing to samples that it did not have"


def test_more_stretches_than_steps_are_refused(recorded):
    with pytest.raises(QueryError, match=f"stretches must be 0 to {STEPS}"):
        hg.attribute(recorded(MLP), hg.mean_loss(MLP.held_out), stretches=STEPS + 1)
