"""Two ranks under DistributedDataParallel: contributions are central differences of the same training of both."""

import json

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import hydragrad as hg
from attribution import oracle
from cli.test_app import hydragrad as hydragrad
from recording.ranks import (
    SAMPLES,
    STEPS,
    Training,
    adamw,
    dropped,
    held_out,
    loss,
    normed,
    partly_frozen,
    record,
    retrain,
    samples,
    seeds_of,
    together,
    value,
)

TRAININGS = [
    Training("sgd"),
    Training("adamw clipped", optimizer=adamw, clip=0.5),
    Training("batch norm", build=normed, clip=0.3),
    Training("batch norm adamw", build=normed, optimizer=adamw),
    Training("dropout under no_sync", build=dropped, optimizer=adamw, micro_batches=(2, 2)),
    Training("batch norm under no_sync", build=normed, micro_batches=(2, 2), clip=0.3),
    Training("batch norm in eval mode later", build=normed, micro_batches=(2, 2), frozen_from=4),
    Training("averaged at every micro-batch", build=normed, micro_batches=(2, 2), no_sync=False, frozen_from=5),
    Training("more micro-batches on one rank", build=normed, micro_batches=(1, 3), frozen_from=4),
    Training("frozen", build=partly_frozen, options=(("find_unused_parameters", True),)),
    Training("bucket views", build=dropped, options=(("gradient_as_bucket_view", True), ("static_graph", True))),
]
H = 1e-5


def directions():
    generator = torch.Generator().manual_seed(5)
    return torch.cat([torch.eye(SAMPLES)[[2]], torch.randn(1, SAMPLES, generator=generator)]).double()


def record_and_retrain(rank, folder, trainings):
    results = {}
    for training in trainings:
        path = folder / training.name
        model = record(training, rank, path, about={"settings": {"source": "recording.ranks:setup"}})
        seeds = seeds_of(path, rank)
        ones = torch.ones(SAMPLES).double()
        plain = retrain(training, rank, ones, seeds)
        ends = [[value(retrain(training, rank, ones + s * H * d, seeds)) for s in (1, -1)] for d in directions()]
        without = ones.clone()
        without[[3, 7]] = 0
        results[training.name] = {
            "recorded": model.state_dict(),
            "retrained": plain.state_dict(),
            "differences": [-(plus - minus) / (2 * H) for plus, minus in ends],
            "without": value(retrain(training, rank, without, seeds)) - value(plain),
        }
    return results


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return folder, together(record_and_retrain, folder, TRAININGS)


def opened(trained, training):
    folder, results = trained
    return hg.Recording(folder / training.name, training.build(), loss, samples()), results[training.name]


of_each = pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.name)


@of_each
def test_a_recorded_rank_trains_what_it_trains_unrecorded(training, trained):
    run, results = opened(trained, training)
    assert len(run.steps) == STEPS and run.completed and run.manifest.processes == 2
    for name, tensor in results["retrained"].items():
        assert torch.equal(results["recorded"][name], tensor), name
    final = run.final.parameters | run.final.buffers
    assert all(torch.equal(final[name], tensor) for name, tensor in results["recorded"].items())


@of_each
def test_contributions_are_central_differences_of_the_training_of_two_ranks(training, trained):
    run, results = opened(trained, training)
    expected = torch.tensor(results["differences"], dtype=torch.float64)
    assert expected.abs().min() > 1e-6, "the perturbation changed nothing"
    scores = hg.attribute(run, hg.mean_loss(held_out()), curvature="hessian", smoothing=0)
    assert oracle.relative(scores.values[0] @ directions().T, expected) < 1e-6
    assert not scores.evidence.replay_exact and scores.evidence.replay_drift < 1e-13


@pytest.mark.parametrize("training", [one for one in TRAININGS if one.frozen_from], ids=lambda training: training.name)
def test_rows_of_two_ranks_give_what_the_sweep_gives(training, trained):
    run, _ = opened(trained, training)
    query = hg.mean_loss(held_out())
    for curvature in ("none", "hessian"):
        expected = hg.attribute(run, query, curvature=curvature, smoothing=0)
        rows = hg.hypergradients(run, curvature=curvature, smoothing=0).contributions(query)
        assert oracle.relative(rows.values, expected.values) < 1e-8


@of_each
def test_a_retraining_of_two_ranks_leaves_samples_out(training, trained):
    run, results = opened(trained, training)
    actual = hg.counterfactual(run, [[3, 7]], hg.mean_loss(held_out())).values.item()
    assert actual == pytest.approx(results["without"], rel=1e-9, abs=1e-12)


def test_more_ranks_add_up_in_an_order_of_their_own_and_are_held_to_rounding(tmp_path):
    training = Training("three", build=normed, optimizer=adamw, micro_batches=(1, 2, 1))
    results = together(record_and_retrain, tmp_path, [training], count=3)
    run, made = opened((tmp_path, results), training)
    assert [part.rank for part in run.steps[0].micro_batches] == [0, 1, 1, 2]
    scores = hg.attribute(run, hg.mean_loss(held_out()), curvature="hessian", smoothing=0)
    expected = torch.tensor(made["differences"], dtype=torch.float64)
    assert oracle.relative(scores.values[0] @ directions().T, expected) < 1e-6
    assert not scores.evidence.replay_exact and scores.evidence.replay_drift < 1e-10


def average_and_evaluate(rank, folder):
    """A loop that keeps an average of the weights, and evaluates through the DistributedDataParallel itself."""
    training = Training("averaged", build=normed)
    ddp, optimizer = training.wrapped()
    data, ema = samples(), AveragedModel(ddp.module, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    with hg.Recorder(folder / "averaged", ddp, optimizer, loss, data, averages={"ema": ema}) as recorder:

        def block(step, number, indices, then):
            with recorder.step(indices) as handle:
                then(handle.losses([tensor[indices] for tensor in data.tensors]))
            ema.update_parameters(ddp.module)
            if step % 2:
                ddp.eval()
                with torch.no_grad():
                    ddp(data.tensors[0])
                ddp.train()

        training.train(rank, ddp, optimizer, block)
    return ema.module.state_dict()


def test_an_average_of_weights_and_evaluations_between_steps_are_recorded_by_every_rank(tmp_path):
    ema = together(average_and_evaluate, tmp_path)
    run = hg.Recording(tmp_path / "averaged", normed(), loss, samples())
    scores = hg.attribute(run.averaged("ema"), hg.mean_loss(held_out()))
    assert scores.evidence.replay_drift == 0
    for name, tensor in run.averaged("ema").final.parameters.items():
        torch.testing.assert_close(tensor, ema[name], rtol=1e-12, atol=1e-12)


def test_the_command_line_reads_a_run_of_two_ranks(trained, tmp_path, hydragrad):
    run, shown = trained[0] / "sgd", tmp_path / "shown.json"
    for words in (("info", run, "--json", shown), ("attribute", run, "--quiet"), ("report", run, "--quiet")):
        code, _, error = hydragrad(*words)
        assert code == 0, error
    figures = json.loads(shown.read_text())
    assert (figures["processes"], figures["steps"], figures["status"]) == (2, STEPS, "completed")
    assert (run / "report.html").exists()
