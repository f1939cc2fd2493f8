"""The report's groups of suspects, near duplicates, and a wrong pixel: digits, and squares on noise.

Needs a browser, as the pictures of `report` do.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from report import DESKTOP, photographed
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hydragrad as hg

SIZE, HELD_OUT = 800, 400
SHOTS = {
    "report-groups.png": ("digits", "groups", DESKTOP),
    "report-duplicates.png": ("digits", "duplicates", DESKTOP),
    "report-pixels.png": ("squares", "suspects", DESKTOP),
}


def make(pictures: Path, runs: Path) -> list[Path]:
    """Train, rank, write the reports, and look at them."""
    return photographed(SHOTS, {"digits": _digits(runs / "digits"), "squares": _squares(runs / "squares")}, pictures)


def _of_images(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def _of_pixels(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return _of_images(model, batch).mean((1, 2))


def _digits(out: Path) -> Path:
    """A third of the fours are labelled nine, a few others wrongly, too; two test images were trained on."""
    digits = load_digits()
    x, true = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    inputs, given = x[:SIZE].clone(), true[:SIZE].clone()
    given[(true[:SIZE] == 4).nonzero()[::3, 0]] = 9
    given[::37] = (given[::37] + 3) % 10
    inputs[50], given[50] = inputs[20], (given[20] + 1) % 10
    rest = slice(SIZE, SIZE + HELD_OUT)
    held_out = TensorDataset(torch.cat([x[rest], inputs[[5, 6]]]), torch.cat([true[rest], given[[5, 6]]]))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = TensorDataset(inputs, given)
    run = hg.train(model, _of_images, data, optimizer, epochs=8, batch_size=32, out=out / "run", resume=True)
    scores = hg.attribute(run, hg.mean_loss(held_out, "held-out loss"))
    suspects = hg.suspects(run, scores)
    return hg.report(
        run,
        scores,
        out / "report.html",
        suspects=suspects,
        groups=hg.suspect_groups(run, suspects),
        duplicates=hg.near_duplicates(run, first=20),
        leaks=hg.near_duplicates(run, held_out, first=20),
        test_set=held_out,
    ).absolute()


def _squares(out: Path) -> Path:
    """Bright squares on noise, a class a pixel; of every twelfth a patch is wrong."""
    torch.manual_seed(0)
    x, true = 0.4 * torch.rand(120, 1, 12, 16), torch.zeros(120, 12, 16, dtype=torch.long)
    for image, mask in zip(x, true, strict=True):
        row, column = int(torch.randint(0, 8, ())), int(torch.randint(0, 12, ()))
        image[0, row : row + 4, column : column + 4] += 0.5
        mask[row : row + 4, column : column + 4] = 1
    given = true.clone()
    given[::12, 5:8, 3:7] = 1 - given[::12, 5:8, 3:7]
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 2, 3, padding=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    data = TensorDataset(x, given)
    run = hg.train(model, _of_pixels, data, optimizer, epochs=15, batch_size=20, out=out / "run", resume=True)
    scores = hg.attribute(run, hg.mean_loss(TensorDataset(x[:40], true[:40]), "held-out loss"))
    suspects = hg.suspects(run, scores)
    return hg.report(run, scores, out / "report.html", suspects=suspects, classes=["ground", "square"]).absolute()
