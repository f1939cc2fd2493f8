"""Memory layout: kernels round by it, so that it belongs to what a replay repeats."""

import copy

import torch
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.randomness import seeded
from recording.toys import loss, replays_to_the_bit


def test_a_batch_that_the_loop_lays_out_channels_last_is_repeated_to_the_bit(tmp_path):
    with seeded(3):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(64, 2))
        data = TensorDataset(torch.randn(12, 3, 6, 6), torch.randint(2, (12,)))
    model, start = model.to(memory_format=torch.channels_last), copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with hg.Recorder(tmp_path, model, optimizer, loss, data, checkpoint_every=2) as recorder:
        for number in range(9):
            indices = [(4 * number + i) % 12 for i in range(4)]
            x, y = data[indices]
            with recorder.step(indices) as step:
                optimizer.zero_grad()
                step.losses([x.contiguous(memory_format=torch.channels_last), y]).mean().backward()
                optimizer.step()
    run = hg.Recording(tmp_path, start, loss, data)
    assert run.steps[3].micro_batches[0].channels_last == (0,)
    assert replays_to_the_bit(run)
