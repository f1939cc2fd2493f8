"""A real headless browser, and a report with everything in it: pictures, suggestions, explanations, epochs."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from hydragrad.cleaning import suspects
from hydragrad.replay import Recording
from hydragrad.reports import report
from hydragrad.scores import Evidence, Note, Scores, sample_losses
from hydragrad.training import train

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the page is tested in a browser: pip install playwright"
)

SAMPLES, TESTS, CLASSES, EPOCHS = 90, 12, 3, 4
NAMES = ("cat", "dog", "eel")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    named = os.environ.get("HYDRAGRAD_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if named is None:
        pytest.skip(f"no browser: install chromium, or let HYDRAGRAD_BROWSER name one (looked for {BROWSERS})")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=named, args=list(SWITCHES))
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page of a report; it fails the test if the page logs an error or asks for anything from anywhere."""
    contexts, troubles = [], []

    def open_page(path: Path, view: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)  # a busy machine is no fault of the page
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        address = path.as_uri()
        page.on("request", lambda request: allowed(request.url, address) or troubles.append(f"request: {request.url}"))
        page.goto(f"{address}{view}")
        return page

    def allowed(url: str, address: str) -> bool:
        return url.split("#")[0] == address or url.startswith(("blob:", "data:"))

    yield open_page
    for context in contexts:
        context.close()
    assert not troubles


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def images(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    x = 0.2 * torch.rand(count, 1, 8, 8, generator=generator)
    for label in range(CLASSES):  # a bright row tells the class
        x[labels == label, 0, 2 * label] = 0.9
    return TensorDataset(x, labels)


def trained(path: Path, data: TensorDataset, epochs: int = EPOCHS, batch_size: int = 30) -> Recording:
    model = nn.Sequential(nn.Flatten(), nn.Linear(data.tensors[0][0].numel(), CLASSES))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return train(model, loss, data, optimizer, epochs=epochs, batch_size=batch_size, out=path)


def made_up(samples: int, *, epochs: int = 0, seed: int = 0) -> Scores:
    """Scores with labels to suggest; a report computes none."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1, samples, generator=generator, dtype=torch.float64)
    parts = torch.randn(1, max(epochs, 1), samples, generator=generator)
    return Scores(
        values=values,
        sample_ids=torch.arange(samples),
        query_names=("validation loss",),
        query_values=torch.tensor([0.25], dtype=torch.float64),
        label_contributions=torch.randn(1, samples, CLASSES, generator=generator, dtype=torch.float64),
        over_time=parts if epochs else None,
        evidence=Evidence(notes=(Note("other", "A note."),)),
    )


def of_samples(samples: int, test_set: TensorDataset) -> Scores:
    """Contributions to the losses of all test samples."""
    generator = torch.Generator().manual_seed(9)
    asked = sample_losses(test_set, range(len(test_set)))
    return Scores(
        values=torch.randn(len(test_set), samples, generator=generator, dtype=torch.float64),
        sample_ids=torch.arange(samples),
        query_names=tuple(asked.names()),
        query_values=torch.rand(len(test_set), generator=generator, dtype=torch.float64),
        evidence=Evidence(),
        queries=(asked,),
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return trained(tmp_path_factory.mktemp("browser") / "tiny", images(SAMPLES, 0))


@pytest.fixture(scope="session")
def scores() -> Scores:
    return made_up(SAMPLES, epochs=EPOCHS)


@pytest.fixture(scope="session")
def explaining() -> Scores:
    return of_samples(SAMPLES, images(TESTS, 1))


@pytest.fixture(scope="session")
def path(run: Recording, scores: Scores, explaining: Scores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(
        run,
        scores,
        tmp_path_factory.mktemp("report") / "report.html",
        suspects=suspects(run, scores, signals=None),
        explain=explaining,
        classes=NAMES,
        accuracies={"labels as given": 0.71, "cleaned": 0.84},
        checks=[{"name": "Groups", "predicted": np.arange(9.0), "actual": 2 * np.arange(9.0), "unit": "nats"}],
    )


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A report of 50,000 samples with pictures that no encoding can shrink, and seconds that a filter may take."""
    count = 50_000
    x = torch.rand(count, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, torch.arange(count) % CLASSES)
    folder = tmp_path_factory.mktemp("large")
    run = trained(folder / "run", data, epochs=1, batch_size=10_000)
    noise = np.random.default_rng(0)
    scores = made_up(count, epochs=20)
    page = report(
        run,
        scores,
        folder / "report.html",
        suspects=suspects(run, scores, signals=None),
        explain=of_samples(count, TensorDataset(x[:300], data.tensors[1][:300])),
        render=lambda item: noise.integers(256, size=(32, 32, 3), dtype=np.uint8),
    )
    return page, 1.0
