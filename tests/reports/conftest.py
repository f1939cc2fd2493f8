"""One tiny run, and scores made up for it: the report computes none."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from hydragrad.replay import Recording
from hydragrad.scores import Evidence, Note, Scores
from hydragrad.training import train

SAMPLES, CLASSES = 40, 3


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 5, generator=generator)
    data = TensorDataset(x, torch.arange(SAMPLES) % CLASSES)
    model = nn.Linear(5, CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return train(
        model,
        loss,
        data,
        optimizer,
        epochs=3,
        batch_size=16,
        out=tmp_path_factory.mktemp("runs") / "tiny",
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
        monitor=lambda model: {"test_accuracy": 0.5},
    )


@pytest.fixture
def scores() -> Scores:
    return scores_with(Evidence(route="hooks", steps=9, notes=(Note("other", "A <b>note</b>."),)))


def scores_with(evidence: Evidence) -> Scores:
    values = torch.linspace(-1, 2, SAMPLES, dtype=torch.float64)[torch.arange(SAMPLES) * 7 % SAMPLES]
    return Scores(
        values=torch.stack([values, -values]),
        sample_ids=torch.arange(SAMPLES),
        query_names=("validation loss", "other"),
        query_values=torch.tensor([0.25, 4.0], dtype=torch.float64),
        evidence=evidence,
    )


@pytest.fixture
def report_path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "report.html"
