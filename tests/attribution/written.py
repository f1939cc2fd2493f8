"""Runs whose steps are of several micro-batches, with coefficients and clipped gradients, written by hand.

What a step is has one place in the log, the replay and the sweep; these runs exercise it whatever loops can record.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hydragrad as hg
from cases import SAMPLES, SEED, Case, collate
from hydragrad.derivatives import Batch
from hydragrad.randomness import preserved, reseed, stream_seed
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import CheckpointFolder
from hydragrad.runs.lines import AppendOnlyLines
from hydragrad.runs.log import LOG, MicroBatch, StepRecord, to_line
from hydragrad.runs.manifest import read_manifest, write_manifest
from hydragrad.runs.steps import read_steps
from hydragrad.steps.rules import read_group, rule_of
from hydragrad.steps.transforms import ClipNorm, ClipValue, Scale, Transform

STEPS = 7


def micro_batches(step: int) -> tuple[MicroBatch, ...]:
    """Two or three micro-batches: a token mean's single coefficient, class weights' many, and a mean's."""
    generator = torch.Generator().manual_seed(step)
    order = torch.randperm(SAMPLES, generator=generator).tolist()
    parts = [(order[:5], 0.13), (order[5:9], tuple((torch.rand(4, generator=generator) / 5).tolist()))]
    if step % 2:
        parts.append((order[8:12], 1 / 4))  # one sample comes a second time
    return tuple(
        MicroBatch(indices, 0, stream_seed(SEED, 10 * step + number), coefficients)
        for number, (indices, coefficients) in enumerate(parts)
    )


def transforms(step: int, names: Sequence[str]) -> tuple[Transform, ...]:
    """A clip by norm that acts at most steps, clipping by value of one parameter, and a scale."""
    clip = ClipNorm(names=tuple(names), max_norm=0.4 if step % 3 else 1e3)
    return (clip, ClipValue(names=(names[0],), limit=0.15), Scale(names=tuple(names[1:]), factor=1.5))


def written(case: Case, path: Path) -> hg.Recording:
    """A run of the case's model and optimizer whose steps are those above."""
    model, train_set = case.build(), case.train_set
    optimizer = case.options.optimizer(model)
    recorder = hg.Recorder(path, model, optimizer, case.loss, train_set, seed=SEED, checkpoint_every=1)
    with recorder, recorder.step([0, 1]):
        optimizer.zero_grad()
        case.loss(model, collate(train_set, [0, 1])).mean().backward()
        optimizer.step()
    (structure,) = (record.structure for record in read_steps(path, read_manifest(path)))
    folder = CheckpointFolder(path)
    start = folder.read(0, folder.entries()[0])
    for file in (path / LOG, folder.index, *folder.folder.iterdir()):
        file.unlink()
    rule = rule_of(optimizer)
    log, index = AppendOnlyLines(path / LOG), AppendOnlyLines(folder.index)
    folder.write(start, index)
    names = [name for group in structure.groups for name in group]
    before = None
    with preserved():
        trajectory = Trajectory(case.build(), case.loss, [rule])
        trajectory.restore(start)
        for step in range(STEPS):
            options = tuple(read_group(rule, group) for group in optimizer.param_groups)
            record = StepRecord(step, micro_batches(step), options, structure, 0.0, None, transforms(step, names))
            trajectory.advance(record, [batch(train_set, part) for part in record.micro_batches])
            record = dataclasses.replace(record, state=trajectory.state_number())
            log.append(to_line(record, before))
            before = record
            if step in (2, STEPS - 1):
                folder.write(trajectory.checkpoint(step + 1), index)
    log.close()
    index.close()
    write_manifest(path, dataclasses.replace(read_manifest(path), steps=STEPS))
    return hg.Recording(path, case.build(), case.loss, train_set)


def batch(train_set: Any, part: MicroBatch) -> Batch:
    return Batch(collate(train_set, part.indices), len(part), part.seed)


def retrain(case: Case, weights: Tensor) -> nn.Module:
    """The same run by a plain loop through torch.optim and torch's clipping, with a weight on every sample's loss."""
    model, train_set = case.build(), case.train_set
    optimizer = case.options.optimizer(model)
    named = dict(model.named_parameters())
    names = [name for group in optimizer.param_groups for p in group["params"] for name, q in named.items() if q is p]
    with preserved():
        for step in range(STEPS):
            optimizer.zero_grad()
            for part in micro_batches(step):
                reseed(part.seed)
                losses = case.loss(model, collate(train_set, part.indices)) * weights[part.indices]
                (losses * torch.tensor(part.coefficients, dtype=torch.float64)).sum().backward()
            torch.nn.utils.clip_grad_norm_([named[name] for name in names], 0.4 if step % 3 else 1e3)
            torch.nn.utils.clip_grad_value_([named[names[0]]], 0.15)
            for name in names[1:]:
                named[name].grad.mul_(1.5)
            optimizer.step()
    return model
