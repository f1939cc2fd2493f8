"""Frameworks that train by two processes, recorded: they train what they always train, and the run is opened in one."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hydragrad as hg

pytest.importorskip("transformers", reason="the transformers extra is not installed")
pytest.importorskip("lightning", reason="the lightning extra is not installed")
pytest.importorskip("accelerate", reason="the accelerate extra is not installed")

import lightning.pytorch as pl
from accelerate import Accelerator

from hydragrad.integrations.lightning import RecordingCallback
from hydragrad.integrations.transformers import record, recording
from integrations.trainers import (
    SAMPLES,
    Weighted,
    arguments,
    build_trainer,
    data,
    gpt2,
    padded,
    written_out,
)
from recording.ranks import together

H = 2e-6
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "devices": 2,
    "strategy": "ddp",
    "precision": "64-true",
}


class AveragedOverRanks(Weighted):
    """Divides by the tokens of both ranks, whose gradients are averaged."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        index = inputs.pop("index")
        losses, _ = written_out(Configured(model), inputs)
        return 2 * (self.weights[index] * losses).sum() / num_items_in_batch


class Configured:
    """A DistributedDataParallel that has its model's config."""

    def __init__(self, wrapper):
        self.wrapper, self.config = wrapper, wrapper.module.config

    def __call__(self, **inputs):
        return self.wrapper(**inputs)


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()

    def training_step(self, batch, _number):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def loss(module, batch):
    return F.cross_entropy(module.net(batch[0]), batch[1], reduction="none")


def plain_loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def samples():
    x = torch.randn(22, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return TensorDataset(x, x.argmax(1) % 3)


def direction():
    return torch.randn(SAMPLES, generator=torch.Generator().manual_seed(1)).double()


def held_out(model):
    losses, _ = written_out(model.eval(), padded(data("gpt2", 5, seed=9)))
    return losses.mean().item()


def hugging_face(folder, name):
    plain = build_trainer(name, folder / name)
    plain.train()
    trainer = build_trainer(name, folder / name)
    with record(trainer, folder / name / "run"):
        trainer.train()
    return plain.model.state_dict(), trainer.model.state_dict()


def weighted(folder, sign):
    train_set = [item | {"index": index} for index, item in enumerate(data("gpt2"))]
    settings = arguments(folder, remove_unused_columns=False)
    trainer = AveragedOverRanks(gpt2(), settings, train_dataset=train_set, data_collator=padded)
    trainer.weights = 1 + sign * H * direction()
    trainer.train()
    return held_out(trainer.model)


def fit(path=None):
    torch.manual_seed(3)
    train_set, module = samples(), Module()
    callbacks = [] if path is None else [RecordingCallback(path, loss, train_set)]
    options = {"max_epochs": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 0.3, "callbacks": callbacks}
    pl.Trainer(**options, **QUIET).fit(module, DataLoader(train_set, batch_size=4, shuffle=True))
    return module.state_dict()


def accelerated(path):
    accelerator, train_set = Accelerator(gradient_accumulation_steps=2, cpu=True), samples()
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    optimizer, loader = torch.optim.AdamW(model.parameters()), DataLoader(train_set, batch_size=4, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    with hg.Recorder(path, model, optimizer, plain_loss, train_set) as recorder:
        for _ in range(2):
            for indices, batch in hg.indexed(loader):
                with recorder.step(indices) as step, accelerator.accumulate(model):
                    accelerator.backward(step.losses(batch).mean())
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 0.3)
                    optimizer.step()
                    optimizer.zero_grad()
    return model.module.state_dict()


def train_all(rank, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577"}
    made = {name: hugging_face(folder, name) for name in ("bert", "gpt2")}
    made["lightning"] = fit(), fit(folder / "lightning")
    made["accelerate"] = accelerated(folder / "accelerate")
    made["difference"] = -(weighted(folder, 1) - weighted(folder, -1)) / (2 * H)
    dist.barrier()
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frameworks")
    return folder, together(train_all, folder)


@pytest.mark.parametrize("name", ["bert", "gpt2", "lightning"])
def test_frameworks_train_by_two_processes_what_they_train_unrecorded(name, trained):
    plain, recorded = trained[1][name]
    for key, value in plain.items():
        rounding = 1e-5 if name == "gpt2" else 1e-10
        torch.testing.assert_close(recorded[key], value, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_trainer_of_two_processes_is_opened_in_one(name, trained):
    folder, made = trained
    run = recording(build_trainer(name, folder / "opened"), folder / name / "run")
    assert run.completed and [part.rank for part in run.steps[0].micro_batches] == [0, 0, 1, 1]
    scores = hg.attribute(run, hg.mean_loss(data(name, 5, seed=9), collate=padded), curvature="none")
    assert scores.evidence.replay_drift < 1e-12
    assert all(torch.equal(value, made[name][1][key]) for key, value in run.final.parameters.items())


def test_contributions_in_a_trainer_of_two_processes_are_derivatives_of_its_retraining(trained):
    folder, made = trained
    run = recording(build_trainer("gpt2", folder / "opened"), folder / "gpt2" / "run")
    query = hg.mean_loss(data("gpt2", 5, seed=9), collate=padded)
    scores = hg.attribute(run, query, curvature="hessian", smoothing=0)
    assert (scores.values[0] @ direction()).item() == pytest.approx(made["difference"], rel=2e-3)


def test_lightning_and_accelerate_by_two_processes_are_opened_in_one(trained):
    folder, made = trained
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    of_lightning = hg.Recording(folder / "lightning", Module(), loss, samples())
    of_accelerate = hg.Recording(folder / "accelerate", model, plain_loss, samples())
    for run, ends in ((of_lightning, made["lightning"][1]), (of_accelerate, made["accelerate"])):
        assert run.completed and [part.rank for part in run.steps[0].micro_batches] == [0, 0, 1, 1]
        assert sorted(index for part in run.steps[0].micro_batches for index in part.indices)[:2] != [0, 0]
        final = run.final.parameters | run.final.buffers
        assert all(torch.equal(value, ends[name]) for name, value in final.items())
        assert hg.attribute(run, hg.mean_loss(samples()), curvature="hessian").evidence.replay_drift < 1e-12
