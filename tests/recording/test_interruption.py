"""Ctrl-C that the user's own loop catches."""

import contextlib
import signal

import pytest
import torch
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

import hydragrad as hg
from hydragrad.recording.interruption import Interruption
from hydragrad.runs.manifest import read_manifest
from recording import toys

pytestmark = pytest.mark.usefixtures("ctrl_c_raises")


def users_loop(path, interrupted_after, *, resume=False):
    """Catches Ctrl-C inside the block; it comes at the end of an epoch, before the schedule steps."""
    model, data = toys.build(), toys.samples()
    optimizer = toys.sgd(model)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(data, batch_size=toys.BATCH_SIZE, shuffle=True, generator=generator)
    options = {"scheduler": scheduler, "checkpoint_every": 3, "seed": 5, "resume": resume}
    with (
        hg.Recorder(path, model, optimizer, toys.loss, data, **options) as recorder,
        contextlib.suppress(KeyboardInterrupt),
    ):
        for epoch in range(recorder.next_step // len(loader), toys.EPOCHS):
            for indices, batch in hg.indexed(loader, recorder=recorder):
                toys.take_step(recorder, model, optimizer, indices, batch)
            if epoch == interrupted_after:
                signal.raise_signal(signal.SIGINT)
            scheduler.step()
    return model


def test_a_caught_interrupt_does_not_complete_the_run(tmp_path):
    whole = users_loop(tmp_path / "whole", None)
    assert read_manifest(tmp_path / "whole").status == "completed"
    users_loop(tmp_path / "run", 1)
    assert read_manifest(tmp_path / "run").status == "interrupted"
    again = users_loop(tmp_path / "run", None, resume=True)
    assert read_manifest(tmp_path / "run").status == "completed"
    assert toys.same_weights(whole, again)
    assert toys.log_of(tmp_path / "whole") == toys.log_of(tmp_path / "run")


def test_a_loop_that_goes_on_after_an_interrupt_completes(tmp_path):
    model, data = toys.build(), toys.samples()
    optimizer = toys.sgd(model)
    with hg.Recorder(tmp_path / "run", model, optimizer, toys.loss, data) as recorder:
        for step in range(4):
            indices = list(range(step, step + 5))
            toys.take_step(recorder, model, optimizer, indices, [part[indices] for part in data.tensors])
            if step == 1:
                with contextlib.suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
    assert read_manifest(tmp_path / "run").status == "completed"


def test_handlers_are_put_back_and_the_users_own_left_alone():
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert interruption.noticed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    came = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
    assert came == [signal.SIGINT]
    assert not interruption.noticed
