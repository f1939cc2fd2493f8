"""The main routes on a GPU, held to real retraining there: `make gpu`.

HYDRAGRAD_TEST_DEVICE=cpu runs the same tests on the CPU.
"""

import os

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hydragrad as hg

DEVICE = torch.device(os.environ.get("HYDRAGRAD_TEST_DEVICE", "cuda"))
pytestmark = pytest.mark.skipif(
    DEVICE.type == "cuda" and not torch.cuda.is_available(),
    reason="no CUDA device here; HYDRAGRAD_TEST_DEVICE=cpu runs these tests on the CPU",
)
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


class Classifier(nn.Module):
    """A small convolutional network with BatchNorm, on images of 6 x 6 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten())
        self.head = nn.Linear(64, 3)

    def forward(self, images):
        return self.head(self.features(images))


def loss(model, batch):
    images, labels = (part.to(DEVICE) for part in batch)
    return F.cross_entropy(model(images), labels, reduction="none")


def images(length, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(length, 1, 6, 6, generator=generator, dtype=dtype)
    return TensorDataset(pictures, torch.randint(3, (length,), generator=generator))


def trained(path, optimizer="sgd", dtype=torch.float64, precision=None):
    torch.manual_seed(0)
    model = Classifier().to(DEVICE, dtype)
    data = images(24, 1, dtype)
    make = OPTIMIZERS[optimizer](model.parameters())
    with hg.Recorder(path, model, make, loss, data) as recorder:
        for _ in range(2):
            loader = DataLoader(data, batch_size=6, shuffle=True)
            for indices, batch in hg.indexed(loader):
                with recorder.step(indices) as step:
                    make.zero_grad()
                    with torch.autocast(DEVICE.type, precision or torch.bfloat16, enabled=precision is not None):
                        losses = step.losses(batch)
                    losses.mean().backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                    make.step()
    return hg.Recording(path, model, loss, data)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_contributions_equal_central_differences_of_retraining_there(optimizer, tmp_path):
    run = trained(tmp_path / "run", optimizer)
    query = hg.mean_loss(images(10, 2, torch.float64))
    scores = hg.attribute(run, query, curvature="hessian", smoothing=0)
    assert scores.evidence.replay_exact
    groups, step = [[sample] for sample in range(4)], 1e-4
    up, down = (hg.counterfactual(run, groups, query, weight=1 + sign * step) for sign in (1, -1))
    slopes = (up.values - down.values)[0] / (2 * step)
    torch.testing.assert_close(-scores.values[0, :4], slopes, rtol=1e-5, atol=1e-8)


def test_rows_of_a_store_answer_as_attribute_does(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.GELU(), nn.Linear(8, 3)).to(DEVICE)
    data = images(24, 1, torch.float32)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    run = hg.train(model, loss, data, optimizer, epochs=2, batch_size=6, out=tmp_path / "run")
    query = hg.mean_loss(images(10, 2, torch.float32))
    scores = hg.attribute(run, query)
    torch.testing.assert_close(hg.hypergradients(run).contributions(query).values, scores.values, rtol=1e-3, atol=1e-6)
    assert scores.evidence.replay_exact and scores.evidence.replay_drift == 0


def test_a_run_under_autocast_is_repeated_to_the_bit_and_differentiated_without(tmp_path):
    run = trained(tmp_path / "run", dtype=torch.float32, precision=torch.bfloat16)
    scores = hg.attribute(run, hg.mean_loss(images(10, 2, torch.float32)), curvature="ggn")
    assert scores.evidence.replay_exact and scores.values.isfinite().all() and scores.values.abs().max() > 0
    assert any(note.kind == "autocast" for note in scores.evidence.notes)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="compiling for the CPU needs a C++ compiler")
def test_a_compiled_model_gives_the_contributions_of_the_plain_one(tmp_path):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.GELU(), nn.Linear(8, 3)).to(DEVICE)
    data, query = images(24, 1, torch.float32), hg.mean_loss(images(10, 2, torch.float32))
    answers = []
    for name, build in (("plain", lambda model: model), ("compiled", torch.compile)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.GELU(), nn.Linear(8, 3)).to(DEVICE)
        model.load_state_dict(plain.state_dict())
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        run = hg.train(build(model), loss, data, optimizer, epochs=2, batch_size=6, out=tmp_path / name)
        answers.append(hg.attribute(run, query, curvature="hessian").values)
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-6)
