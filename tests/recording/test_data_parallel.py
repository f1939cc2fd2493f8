"""Two ranks under DistributedDataParallel: contributions are central differences of the same training of both."""

import pytest
import torch

import hydragrad as hg
from attribution import oracle
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
    return torch.cat([torch.eye(SAMPLES)[[2]], torch.randn(2, SAMPLES, generator=generator)]).double()


def record_and_retrain(rank, folder):
    results = {}
    for training in TRAININGS:
        path = folder / training.name
        model = record(training, rank, path)
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
    return folder, together(record_and_retrain, folder)


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


@of_each
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
