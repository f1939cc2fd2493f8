"""Attributions by executors and by slices: the numbers of one process to the bit, whoever goes on after whom."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from cases import STEPS, Case, record
from hydragrad.attribution import blocks, chunks, segments
from hydragrad.attribution.plan import make_plan
from hydragrad.attribution.tally import Tally
from hydragrad.errors import LossError, QueryError, Unfinished
from hydragrad.execution.claims import Claims
from hydragrad.replay.trajectory import Trajectory
from hydragrad.scores import Method

CASE = Case("mlp", "all")
METHODS = {
    "hooks": {"stretches": 3},
    "labels": {"labels": True},
    "chunks": {"curvature": "hessian", "queries_at_once": 2, "stretches": 2},
    "replays": {"curvature": "ggn", "replays": 3, "queries_at_once": 2},
}


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return record(CASE, tmp_path_factory.mktemp("executors") / "run", checkpoint_every=4)


@pytest.fixture(scope="module")
def queries():
    return [hg.mean_loss(CASE.held_out), hg.sample_losses(CASE.held_out, [1, 2])]


def left_over(run: hg.Recording) -> list[Path]:
    return [path for path in (run.path / "scores").rglob("*") if path.is_file()]


def assert_equal(scores, expected):
    assert torch.equal(scores.values, expected.values)
    for name in ("label_contributions", "over_time", "part_contributions"):
        one, other = getattr(scores, name), getattr(expected, name)
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other) or bool((one.isnan() == other.isnan()).all())
    assert scores.query_names == expected.query_names
    assert torch.equal(scores.query_values, expected.query_values)


@pytest.mark.parametrize("method", METHODS)
def test_an_executor_gives_the_numbers_and_the_evidence_of_one_process(method, run, queries, processes):
    expected = hg.attribute(run, queries, **METHODS[method])
    scores = hg.attribute(run, queries, executor=processes, **METHODS[method])
    assert_equal(scores, expected)
    assert scores.evidence == expected.evidence
    assert left_over(run) == []


@pytest.mark.parametrize("method", METHODS)
def test_slices_meet_in_the_run_directory_and_the_last_one_has_the_result(method, run, queries):
    expected = hg.attribute(run, queries, **METHODS[method])
    with Claims(run.path / "scores") as others:
        busy = others_work_on_half(run, queries, METHODS[method], others)
        with pytest.raises(Unfinished, match=r"Part 1/2 is done; \d+ of \d+ .* are still missing"):
            hg.attribute(run, queries, part="1/2", **METHODS[method])
        assert len(left_over(run)) > busy, "the rest is done"
    last = hg.attribute(run, queries, part=(2, 2), **METHODS[method])
    assert_equal(last, expected)
    late = hg.attribute(run, queries, part="1/2", **METHODS[method])
    assert_equal(late, expected)
    assert left_over(run), "another slice may come"
    assert_equal(hg.attribute(run, queries, **METHODS[method]), expected)
    assert left_over(run) == [], "a whole call tidies up"


def others_work_on_half(run, queries, options, claims) -> int:
    """Claim every second file that the call will write; returns how many."""
    names = []
    taking = Claims.take

    def noting(self, name):
        names.append(name)
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Claims, "take", noting)
        with pytest.raises(Unfinished):
            hg.attribute(run, queries, part="1/1", **options)
    assert len(names) >= 2
    return sum(taking(claims, name) for name in names[::2])


def test_a_call_that_an_executor_left_unfinished_goes_on_here(run, queries, monkeypatch):
    expected = hg.attribute(run, queries)
    done = []

    def interrupted(self, block):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(block)
        return original(self, block)

    original = blocks.BlockSums.__call__
    monkeypatch.setattr(blocks.BlockSums, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, queries, part="1/1")
    assert len(left_over(run)) == 2
    monkeypatch.setattr(blocks.BlockSums, "__call__", original)
    steps = counted_steps(monkeypatch)
    assert_equal(hg.attribute(run, queries), expected)
    assert STEPS - 8 <= len(steps) < STEPS
    assert left_over(run) == []


def test_a_call_that_was_left_unfinished_here_goes_on_elsewhere(run, queries, processes, monkeypatch):
    expected = hg.attribute(run, queries)
    original, steps = blocks.BlockSums.steps, []

    def interrupted(self, block, replay, compared):
        for tally in original(self, block, replay, compared):
            steps.append(tally)
            if len(steps) == 11:
                raise KeyboardInterrupt
            yield tally

    monkeypatch.setattr(blocks.BlockSums, "steps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, queries)
    assert len(left_over(run)) == 1
    monkeypatch.setattr(blocks.BlockSums, "steps", original)
    sizes, kept_jobs = [], segments.kept_jobs

    def counted(work, jobs, *rest):
        sizes.append(len(jobs))
        return kept_jobs(work, jobs, *rest)

    monkeypatch.setattr(segments, "kept_jobs", counted)
    assert_equal(hg.attribute(run, queries, executor=processes), expected)
    assert sizes == [len(run.segments) - 2]
    assert left_over(run) == []


def test_chunks_that_an_executor_finished_are_taken_over_here(run, queries, monkeypatch):
    options = {"curvature": "hessian", "queries_at_once": 1}
    expected = hg.attribute(run, queries, **options)
    original, swept = chunks.sweep, []

    def interrupted(*args, **more):
        if len(swept) == 2:
            raise KeyboardInterrupt
        swept.append(1)
        return original(*args, **more)

    monkeypatch.setattr(chunks, "sweep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, queries, part="1/1", **options)
    steps = counted_steps(monkeypatch)
    assert_equal(hg.attribute(run, queries, **options), expected)
    assert STEPS <= len(steps) < 2 * STEPS
    assert left_over(run) == []


def counted_steps(monkeypatch) -> list[int]:
    steps, advance = [], Trajectory.advance

    def counted(self, *args, **options):
        steps.append(1)
        return advance(self, *args, **options)

    monkeypatch.setattr(Trajectory, "advance", counted)
    return steps


def test_many_segments_are_grouped_in_order(monkeypatch):
    monkeypatch.setattr(blocks, "MOST", 3)
    grouped = blocks.blocks_of([(0, 2), (2, 5), (7, 9), (9, 10), (10, 12)])
    assert [block.segments for block in grouped] == [((0, 2), (2, 5)), ((7, 9), (9, 10)), ((10, 12),)]
    assert [block.span for block in grouped] == [(0, 5), (7, 10), (10, 12)]
    assert blocks.blocks_of([]) == []


def test_groups_of_segments_add_up(run, queries, monkeypatch):
    expected = hg.attribute(run, queries, stretches=2)
    monkeypatch.setattr(blocks, "MOST", 2)
    grouped = hg.attribute(run, queries, stretches=2)
    assert torch.allclose(grouped.values, expected.values, rtol=1e-12, atol=1e-15)
    assert_equal(hg.attribute(run, queries, stretches=2, part="1/1"), grouped)
    assert_equal(hg.attribute(run, queries, stretches=2), grouped)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """A run on sequences of parts whose number differs, so that sums by part become wider on the way."""
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(12, 5, 3, dtype=torch.float64, generator=generator)
    labels = (points.sum(2) > 0).long()
    for sample, length in enumerate([2, 3, 5] * 4):
        labels[sample, length:] = -100
    torch.manual_seed(3)
    model = nn.Linear(3, 2).double()
    train_set = TensorDataset(points, labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    path = tmp_path_factory.mktemp("sequences") / "run"
    return hg.train(model, loss_of_tokens, train_set, optimizer, epochs=2, batch_size=3, out=path, checkpoint_every=2)


def losses_of_tokens(model, batch):
    points, labels = batch
    width = int((labels >= 0).sum(1).max())  # the longest of the batch: sums become wider on the way
    points, labels = points[:, :width], labels[:, :width]
    return F.cross_entropy(model(points).transpose(1, 2), labels, reduction="none"), labels >= 0


loss_of_tokens = hg.loss_of_parts(losses_of_tokens)


def test_sums_by_part_are_joined_in_order(sequences, processes):
    query = hg.query("weight", lambda model: model.weight.square().sum())
    expected = hg.attribute(sequences, query, parts=True)
    assert expected.part_contributions.isnan().any()
    scores = hg.attribute(sequences, query, parts=True, executor=processes)
    assert torch.equal(scores.part_contributions.nan_to_num(7.0), expected.part_contributions.nan_to_num(7.0))
    assert torch.equal(scores.values, expected.values)


def test_a_sample_with_other_parts_elsewhere_is_refused(sequences):
    plan = make_plan(sequences, Method.of("none"), sample_ids=torch.arange(12), parts=True)
    tally = Tally(plan, 1)
    nothing = {"values": torch.zeros(1, 1), "labels": torch.zeros(1, 1, 0), "over_time": torch.zeros(1, 0, 1)}
    sums = {name: value.double() for name, value in nothing.items()} | {"visits": torch.ones(1).double()}
    tally.add_sums(torch.tensor([4]), sums | {"parts": torch.tensor([[[1.0, 2.0]]]).double()})
    with pytest.raises(LossError, match=r"sample 4 has 1 parts \(0 to 0\) at one step, and 2 parts \(0 to 1\) at anot"):
        tally.add_sums(torch.tensor([4]), sums | {"parts": torch.tensor([[[1.0, torch.nan]]]).double()})


def test_no_scalars_at_once_are_refused(run, queries):
    with pytest.raises(QueryError, match="queries_at_once must be at least 1"):
        hg.attribute(run, queries, queries_at_once=0)


def test_influence_at_every_checkpoint_is_a_job(run, queries, processes):
    expected = hg.influence(run, queries, checkpoints=3)
    scores = hg.influence(run, queries, checkpoints=3, executor=processes)
    assert_equal(scores, expected)
    assert scores.evidence == expected.evidence
    assert left_over(run) == []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Unfinished, match="3 of 3 checkpoints are still missing"):
        patch.setattr(Claims, "take", lambda *_: False)
        hg.influence(run, queries, checkpoints=3, part="1/2")
    assert_equal(hg.influence(run, queries, checkpoints=3, part="2/2"), expected)
    assert len(left_over(run)) == 3
    other = hg.sample_losses(CASE.held_out, [5])
    assert torch.equal(hg.influence(run, other, part="1/1").values, hg.influence(run, other).values)
    hg.influence(run, queries, checkpoints=3, executor=processes)
    hg.influence(run, other, executor=processes)
    assert left_over(run) == []


def test_slices_of_a_model_trained_elsewhere_need_a_folder(run, queries, tmp_path):
    final = run.final.parameters | run.final.buffers
    checkpoints = hg.Checkpoints([final], CASE.build(), CASE.loss, CASE.train_set)
    with pytest.raises(QueryError, match="give out="):
        hg.influence(checkpoints, queries, part="1/1")
    scores = hg.influence(checkpoints, queries, part="1/1", out=tmp_path)
    assert_equal(scores, hg.influence(checkpoints, queries))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
