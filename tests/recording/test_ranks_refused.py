"""What several processes do that can't be recorded, refused by name; and what their parts must have in common."""

import dataclasses
import re
import shutil

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.checking.parts import process_parts
from hydragrad.errors import HydragradError, RecordingMismatch, RunDamaged, RunNotFound
from hydragrad.recording.rank_zero import RankZero
from hydragrad.recording.resuming import read_common_progress
from hydragrad.runs.lines import sealed, unsealed
from hydragrad.runs.manifest import read_manifest, write_manifest
from hydragrad.runs.processes import part_of
from recording.ranks import Training, loss, mlp, normed, record, samples, sgd, together

DATA = samples()


def batch_of(indices):
    return [tensor[indices] for tensor in DATA.tensors]


def loop(path, ddp, *, of=loss, through=None):
    """A step of a rank on samples of its own."""
    optimizer = sgd(ddp)
    with hg.Recorder(path, ddp, optimizer, loss, DATA, seed=1) as recorder:
        indices = [dist.get_rank() + number for number in range(3)]
        with recorder.step(indices):
            of(through or ddp, batch_of(indices)).mean().backward()
            optimizer.step()


def plain(path):
    loop(path, mlp())


def wrapped_twice(path):
    loop(path, DistributedDataParallel(DistributedDataParallel(mlp())))


def sync_batch_norm(path):
    ddp = DistributedDataParallel(normed())
    ddp.module[1].__class__ = nn.SyncBatchNorm  # which itself wants a GPU
    loop(path, ddp)


def buffers_of_their_own(path):
    loop(path, DistributedDataParallel(normed(), broadcast_buffers=False))


def hook(_state, bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def communication_hook(path):
    ddp = DistributedDataParallel(mlp())
    ddp.register_comm_hook(None, hook)
    loop(path, ddp)


def communication_hook_later(path):
    ddp, optimizer = DistributedDataParallel(mlp()), None
    optimizer = sgd(ddp)
    with hg.Recorder(path, ddp, optimizer, loss, DATA) as recorder:
        ddp.register_comm_hook(None, hook)
        with recorder.step([0, 1, 2]):
            loss(ddp, batch_of([0, 1, 2])).mean().backward()
            optimizer.step()


def mixed_precision(path):
    ddp = DistributedDataParallel(mlp())
    ddp.mixed_precision = object()
    loop(path, ddp)


def ignored(path):
    model = mlp()
    model._ddp_params_and_buffers_to_ignore = ["0.weight"]
    loop(path, DistributedDataParallel(model))


def past_the_wrapper(path):
    ddp = DistributedDataParallel(mlp())
    loop(path, ddp, through=ddp.module)


def joined(path):
    ddp = DistributedDataParallel(mlp())
    with ddp.join():
        loop(path, ddp)


def another_loss(path):
    loop(path, DistributedDataParallel(mlp()), of=lambda model, batch: 2 * loss(model, batch))


def another_batch(path):
    ddp = DistributedDataParallel(mlp())
    optimizer = sgd(ddp)
    with hg.Recorder(path, ddp, optimizer, loss, DATA) as recorder, recorder.step([0, 1, 2]) as step:
        step.losses(batch_of([3, 4, 5])).mean().backward()
        optimizer.step()


def without_averages(path, data, indices):
    """Steps without communication: rank 1 finds out from what rank 0 wrote."""
    ddp = DistributedDataParallel(mlp())
    optimizer = sgd(ddp)
    with hg.Recorder(path, ddp, optimizer, loss, data) as recorder:
        for step in range(4):
            if step == 2:
                dist.barrier()
            with recorder.step(indices), ddp.no_sync():
                optimizer.zero_grad()
                loss(ddp, [tensor[indices] for tensor in data.tensors]).mean().backward()
                optimizer.step()


def other_data(path):
    x, y = DATA.tensors
    without_averages(path, TensorDataset(x + dist.get_rank(), y), [0, 1])


def departing(path):
    """Gradients are not averaged, and the ranks have different samples."""
    without_averages(path, DATA, [0, 1, dist.get_rank()])


def trained(path):
    ddp = DistributedDataParallel(mlp())
    hg.train(ddp, loss, DATA, sgd(ddp), epochs=1, batch_size=4, out=path)


def tracked(path):
    ddp = DistributedDataParallel(mlp())
    hg.Tracker(ddp, sgd(ddp), loss, DATA)


REFUSED = {
    plain: "2 processes train together here .* this model is a Sequential. Pass the DistributedDataParallel itself",
    wrapped_twice: "must be around the model once",
    sync_batch_norm: "this one has SyncBatchNorm, which couples the samples of all ranks",
    buffers_of_their_own: "broadcast_buffers=False with buffers",
    communication_hook: "a communication hook, which changes the averaged gradients",
    communication_hook_later: "a communication hook, which changes the averaged gradients",
    mixed_precision: "mixed_precision .use torch.autocast",
    ignored: "parameters that it ignores",
    past_the_wrapper: "Forward passes must go through DistributedDataParallel.* Call it, not its .module",
    joined: "inside of join.. those that ran out of batches only shadow the others.*DistributedSampler",
    another_loss: "this rank's own batch differs by 1.0e.00.* the loop's gradient is 2 times that of the recorded loss",
    another_batch: "this rank's own batch differs .* the loop's batch is not train_set.indices.",
    trained: "hg.train is for the training of one process, and 2 train this model together. Write the loop yourself",
    tracked: "hg.Tracker is for the training of one process, .* use hg.hypergradients.run",
}


def refuse_all(rank, folder):
    found = {}
    for case in REFUSED:
        try:
            case(folder / case.__name__)
        except HydragradError as error:
            found[case.__name__] = str(error)
        dist.barrier()
        assert not (folder / case.__name__).exists(), "what failed in its first step leaves nothing"
    for case in (other_data, departing):
        try:
            case(folder / case.__name__)
        except HydragradError as error:
            (folder / f"{case.__name__}-{rank}").write_text(str(error))
        dist.barrier()
    record(Training("whole", clip=0.1), rank, folder / "whole", store_batches=True, checkpoint_every=2)
    try:
        record(Training("whole"), rank, folder / "whole")
    except HydragradError as error:
        found["again"] = str(error)
    dist.barrier()
    ddp = DistributedDataParallel(mlp())
    found["opened with it"] = hg.Recording(folder / "whole", ddp, loss, DATA).steps[3].indices
    found["checked"] = process_parts(ddp)[0].found, process_parts(mlp())[0].refusal.message
    return found


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    return folder, together(refuse_all, folder)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.__name__)
def test_what_several_processes_do_that_is_not_recorded_is_refused_by_name(case, refused):
    assert re.search(REFUSED[case], refused[1][case.__name__])


def test_a_run_of_ranks_is_not_overwritten(refused):
    assert re.search(r"whole already holds a run", refused[1]["again"])


def test_a_run_is_opened_with_the_distributed_data_parallel_too(refused):
    assert refused[1]["opened with it"] == opened(refused[0] / "whole").steps[3].indices


def test_check_says_what_it_finds_of_several_processes(refused):
    found, refusal = refused[1]["checked"]
    assert found.startswith("rank 0 of 2 in DistributedDataParallel; each records its own part.")
    assert "2 processes train together here" in refusal
    assert not process_parts(mlp())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "other_data",
            "must train the same model alike; data of ranks 0 and 1 .* not the same. Give every rank the whole",
        ),
        ("departing", "must have the same weights; after step 0 those of rank 1 differ .* no_sync"),
    ],
)
def test_ranks_that_depart_are_refused_while_they_train_and_when_the_run_is_opened(name, message, refused):
    folder = refused[0]
    assert re.search(message, (folder / f"{name}-1").read_text())
    assert not (folder / f"{name}-0").exists()
    with pytest.raises(RecordingMismatch, match=message):
        hg.Recording(folder / name, mlp(), loss, DATA)


@pytest.fixture
def whole(refused, tmp_path):
    """A run of two ranks that may be altered."""
    return shutil.copytree(refused[0] / "whole", tmp_path / "whole")


def opened(run):
    return hg.Recording(run, mlp(), loss, DATA)


def altered(folder, **entries):
    write_manifest(folder, dataclasses.replace(read_manifest(folder), **entries))


def test_batches_that_every_rank_stored_are_found_again(whole):
    run = opened(whole)
    assert hg.attribute(run, hg.mean_loss(DATA), curvature="hessian").values.abs().max() > 0
    next(part_of(whole, 1).glob("batches/*-00000003.safetensors")).unlink()
    with pytest.raises(RunDamaged, match=r"ranks/1/batches/step-00000003.safetensors can't be read"):
        hg.attribute(opened(whole), hg.mean_loss(DATA))


def test_the_part_of_a_rank_is_no_run(whole):
    with pytest.raises(RecordingMismatch, match=r"is the part of rank 1 of a run of 2 processes. Open the run itself"):
        opened(part_of(whole, 1))


def test_a_missing_part_is_named(whole):
    shutil.rmtree(part_of(whole, 1))
    with pytest.raises(
        RunDamaged, match=r"recorded by 2 processes, .*ranks/1 is missing. .* copy ranks/ of every node"
    ):
        opened(whole)
    with pytest.raises(RunDamaged, match=r"ranks/1 is missing"):
        read_common_progress(whole, 0, 2)


def test_the_part_of_another_rank_is_refused(whole):
    altered(part_of(whole, 1), rank=2)
    with pytest.raises(RecordingMismatch, match=r"must be the part of rank 1; it is that of rank 2"):
        opened(whole)


def test_another_number_of_processes_is_refused(whole):
    altered(part_of(whole, 1), processes=3)
    with pytest.raises(
        RecordingMismatch, match=r"processes of ranks 0 and 1 .* 2 and 3. Give every rank the same script"
    ):
        opened(whole)
    with pytest.raises(
        RecordingMismatch, match=r"recorded by 2 processes, and 4 resume it: their batches would be others"
    ):
        read_common_progress(whole, 0, 4)


def test_a_rank_that_does_not_see_rank_0_does_not_resume(whole):
    (whole / "manifest.json").unlink()
    with pytest.raises(RunNotFound, match=r"Rank 1 resumes from the checkpoints of rank 0, in .*; no run is there"):
        read_common_progress(whole, 1, 2)


def test_ranks_resume_where_both_have_a_checkpoint(whole):
    assert read_common_progress(whole, 1, 2).step == 7
    assert read_common_progress(whole, 1, 2, at=4).step == 4
    with pytest.raises(RecordingMismatch, match=r"must have a checkpoint before step 3 .* before \[0, 2, 4, 6, 7\]"):
        read_common_progress(whole, 0, 2, at=3)


def without_last_lines(folder, count):
    log = folder / "steps.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-count]))


def test_a_run_of_ranks_is_as_long_as_the_shortest_part(whole):
    altered(part_of(whole, 1), status="interrupted", steps=6)
    without_last_lines(part_of(whole, 1), 1)
    with pytest.warns(UserWarning, match=r"was not completed; it is read up to its last complete step, 6"):
        run = opened(whole)
    assert run.manifest.status == "interrupted" and run.last.step == 6
    assert torch.equal(run.last.parameters["0.weight"], run.checkpoint(6).parameters["0.weight"])
    altered(part_of(whole, 1), status="running")
    with pytest.warns(UserWarning, match=r"was not completed"):
        assert opened(whole).manifest.status == "running"


def test_completed_parts_of_different_lengths_are_refused(whole):
    altered(part_of(whole, 1), steps=6)
    with pytest.raises(RecordingMismatch, match=r"must make the same steps; those of .* ended after \[7, 6\]"):
        opened(whole)


def changed_line(folder, number, **entries):
    log = folder / "steps.jsonl"
    lines = log.read_text().splitlines()
    lines[number] = sealed(unsealed(lines[number]) | entries)
    log.write_text("\n".join(lines) + "\n")


def test_ranks_that_clip_differently_are_refused(whole):
    changed_line(part_of(whole, 1), 2, clipped=False)
    with pytest.raises(
        RecordingMismatch, match=r"must make the same step; transformed of ranks 0 and 1 differ at step 2: True and"
    ):
        opened(whole)


def test_ranks_that_begin_a_step_with_other_buffers_are_refused(whole):
    lines = (part_of(whole, 1) / "steps.jsonl").read_text().splitlines()
    parts = unsealed(lines[1])["micro_batches"]
    changed_line(part_of(whole, 1), 1, micro_batches=[part | {"buffers": 1.5} for part in parts])
    with pytest.raises(
        RecordingMismatch, match=r"buffers of rank 0; at step 1 rank 1 had others. Leave broadcast_buffers"
    ):
        opened(whole)


def test_a_gradient_that_is_no_average_is_found_when_the_run_is_opened(whole):
    for rank in (0, 1):
        lines = (part_of(whole, rank) / "steps.jsonl").read_text().splitlines()
        changed_line(part_of(whole, rank), 0, state=2.0, shared=2.0) if lines else None
    with pytest.raises(
        RecordingMismatch, match=r"adding the ranks' gradients in another order explains up to .* hook that"
    ):
        opened(whole)


def test_a_rank_without_a_common_disk_warns(tmp_path, whole):
    first, second = hg.Recording(whole, mlp(), loss, DATA).steps[:2]
    alone = RankZero(tmp_path / "elsewhere", 1)
    alone.note(first)
    alone.note(second)
    with pytest.warns(UserWarning, match=r"Rank 1 does not see what rank 0 writes .* Copy .*ranks/1 into rank 0's run"):
        alone.compare(2, read_manifest(part_of(whole, 1)))
