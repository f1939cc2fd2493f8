"""Wrong targets of several kinds, planted and ranked: values, several labels of a sample, pixels and tokens.

A tenth of the training targets is made wrong, either at random ("scattered") or so that the wrong ones agree with one
another ("agreeing": all in one part of the data, and all in the same direction). One run is recorded, and every method
ranks its samples. Rows are saved setting by setting, so that an interrupted study resumes.

The data are made of scikit-learn's: diabetes and Friedman's first function (values), digits with four properties of the
digit (several labels), with the class of every inked pixel (pixels), and four in a row (tokens).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hydragrad.attribution import attribute
from hydragrad.cleaning import suspects
from hydragrad.cli.console import columns, write_json
from hydragrad.cli.options import Json, Quiet, named_among
from hydragrad.progress import quiet
from hydragrad.scores import mean_loss
from hydragrad.training import train
from studies.rows import append_rows, saved_rows

ROWS_FILE = "targets.jsonl"
NOISES = ("scattered", "agreeing")
SHARE = 0.1
EPOCHS = 40

PROPERTIES = ((0, 2, 4, 6, 8), (5, 6, 7, 8, 9), (2, 3, 5, 7), (0, 4, 6, 8, 9))
"""Digits that are even, at least 5, prime, with a loop."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """How well one method ranks the wrong targets of one setting.

    Attributes:
        problem, noise, seed: The setting.
        samples: Training samples.
        wrong: How many have a wrong target.
        method: What ranked them.
        auc: Probability that a wrong one ranks above a right one.
        found: Share of the wrong ones among as many first ones.
    """

    problem: str
    noise: str
    seed: int
    samples: int
    wrong: int
    method: str
    auc: float
    found: float


@dataclass(frozen=True)
class Planted:
    """A problem with wrong targets.

    Attributes:
        train: Inputs, and targets of which some are wrong.
        held_out: With right targets.
        wrong: Where they are wrong, bool (samples,).
        model: Untrained.
        loss: Per-sample losses.
    """

    train: TensorDataset
    held_out: TensorDataset
    wrong: NDArray[np.bool_]
    model: nn.Module
    loss: Callable[[nn.Module, Sequence[Tensor]], Tensor]


def diabetes(noise: str, seed: int) -> Planted:
    """Values of 265 patients."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return _values(x, y, noise, seed)


def friedman(noise: str, seed: int) -> Planted:
    """Values of a function with noise, 900 samples."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(1500, n_features=10, noise=1, random_state=seed)
    return _values(x, y, noise, seed)


def _values(x: NDArray[np.float64], y: NDArray[np.float64], noise: str, seed: int) -> Planted:
    random = np.random.RandomState(seed)
    order, half = random.permutation(len(x)), int(0.6 * len(x))
    x, y = ((part[order] - part.mean(0)) / part.std(0) for part in (x, y))
    wrong = _wrong(random, half, noise, x[:half, 3] > np.quantile(x[:half, 3], 0.8))
    given = y[:half].copy()
    sign = random.choice([-1, 1], int(wrong.sum())) if noise == "scattered" else 1
    given[wrong] += sign * random.uniform(1, 2.5, int(wrong.sum()))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], 64), nn.Tanh(), nn.Linear(64, 1))
    parts = [torch.tensor(part, dtype=torch.float32) for part in (x[:half], given, x[half:], y[half:])]
    return Planted(TensorDataset(*parts[:2]), TensorDataset(*parts[2:]), wrong, model, squares)


def properties(noise: str, seed: int) -> Planted:
    """Four labels of a digit, one of them flipped; agreeing: fours that are not even, and do not have a loop."""
    random, x, digit = _digits(seed)
    true = np.stack([np.isin(digit, which) for which in PROPERTIES], 1).astype(np.float32)
    wrong = _wrong(random, 1000, noise, digit[:1000] == 4, share=SHARE if noise == "scattered" else 0.05)
    given = true[:1000].copy()
    flipped = random.randint(4, size=int(wrong.sum())) if noise == "scattered" else np.zeros(int(wrong.sum()), int)
    given[wrong, flipped] = 1 - given[wrong, flipped]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    flat = x.flatten(1)
    return Planted(*_sets(flat, given, torch.tensor(true), 1000), wrong, model, several_labels)


def pixels(noise: str, seed: int) -> Planted:
    """The class of every pixel, background or the digit's; wrong: another digit, or (agreeing) fours that are nines."""
    random, x, digit = _digits(seed)
    true = torch.where(x > 0.25, torch.tensor(digit)[:, None, None] + 1, 0)
    wrong = _wrong(random, 600, noise, digit[:600] == 4, share=SHARE if noise == "scattered" else 0.05)
    other = digit[:600].copy()
    step = random.randint(1, 10, size=int(wrong.sum())) if noise == "scattered" else 5
    other[wrong] = (other[wrong] + step) % 10
    given = torch.where(x[:600] > 0.25, torch.tensor(other)[:, None, None] + 1, 0)
    torch.manual_seed(seed)
    middle = [layer for _ in range(2) for layer in (nn.Conv2d(24, 24, 3, padding=1), nn.GELU())]
    model = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.GELU(), *middle, nn.Conv2d(24, 11, 3, padding=1))
    return Planted(*_sets(x[:, None], given, true, 600), wrong, model, at_positions)


def tokens(noise: str, seed: int) -> Planted:
    """Four digits in a row, one of the labels wrong; agreeing: fours that are nines."""
    random, x, digit = _digits(seed)
    x, true = x[:1796].reshape(-1, 4, 64), torch.tensor(digit[:1796].reshape(-1, 4))
    given, half = true[:300].clone(), 300
    wrong = _wrong(random, half, noise, (given == 4).any(1).numpy())
    for sample in wrong.nonzero()[0]:
        places = [random.randint(4)] if noise == "scattered" else (given[sample] == 4).nonzero()[:1, 0].tolist()
        given[sample, places] = (given[sample, places] + (random.randint(1, 10) if noise == "scattered" else 5)) % 10
    torch.manual_seed(seed)
    return Planted(*_sets(x, given, true, half), wrong, Tokens(), at_positions)


class Tokens(nn.Module):
    """Logits (batch, classes, positions) of every vector of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, positions, 64) to (batch, 10, positions)."""
        logits: Tensor = self.layers(x)
        return logits.movedim(-1, 1)


def squares(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Squared errors."""
    difference: Tensor = model(batch[0])[:, 0] - batch[1]
    return difference.square()


def several_labels(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Binary cross-entropy, mean over the classes."""
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], reduction="none").mean(1)


def at_positions(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Cross-entropy, mean over the positions."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none").flatten(1).mean(1)


PROBLEMS = {function.__name__: function for function in (diabetes, friedman, properties, pixels, tokens)}


def _digits(seed: int) -> tuple[np.random.RandomState, Tensor, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    random, data = np.random.RandomState(seed), load_digits()
    order = random.permutation(len(data.target))
    return random, torch.tensor(data.images[order] / 16, dtype=torch.float32), data.target[order]


def _sets(
    x: Tensor, given: NDArray[np.float32] | Tensor, true: Tensor, size: int
) -> tuple[TensorDataset, TensorDataset]:
    return TensorDataset(x[:size], torch.as_tensor(given)), TensorDataset(x[size:], true[size:])


def _wrong(
    random: np.random.RandomState, size: int, noise: str, group: NDArray[np.bool_], share: float = SHARE
) -> NDArray[np.bool_]:
    """Which samples are made wrong: any, or some of a group."""
    candidates = np.arange(size) if noise == "scattered" else group.nonzero()[0]
    wrong = np.zeros(size, bool)
    wrong[random.permutation(candidates)[: int(share * size)]] = True
    return wrong


def rankings(planted: Planted, out: Path, seed: int) -> dict[str, NDArray[np.float64]]:
    """How suspect every sample is, by method."""
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(planted.model.parameters(), lr=0.05, momentum=0.9)
    run = train(
        planted.model, planted.loss, planted.train, optimizer, epochs=EPOCHS, batch_size=32, out=out, resume=True
    )
    question = mean_loss(planted.held_out)
    frame = suspects(run, attribute(run, question), held_out=question).sort_values("sample")
    by_method = {
        "hydragrad": frame["suspicion"],
        "training alone": frame["evidence"],
        "strongest position": frame.get("strongest"),
        "contribution": -frame["contribution"],
        "influence functions": -frame["influence"],
        "loss": frame["loss"],
        "cleanlab": _cleanlab(run.trained_model(), planted),
        "random": pd.Series(np.random.RandomState(seed).rand(len(frame))),
    }
    return {name: np.asarray(column, dtype=np.float64) for name, column in by_method.items() if column is not None}


def _cleanlab(model: nn.Module, planted: Planted) -> pd.Series | None:
    """Its quality scores, negative, from the trained model's probabilities; it has none for values from one model."""
    x, given = planted.train.tensors
    with torch.no_grad():
        output = model(x)
    if planted.loss is several_labels:
        from cleanlab.multilabel_classification import get_label_quality_scores

        listed = [row.nonzero()[:, 0].tolist() for row in given]
        return pd.Series(-get_label_quality_scores(listed, output.sigmoid().numpy()))
    if planted.loss is at_positions and given.dim() == 3:
        from cleanlab.segmentation.rank import get_label_quality_scores as of_images

        return pd.Series(-of_images(given.numpy(), output.softmax(1).numpy(), verbose=False)[0])
    if planted.loss is at_positions:
        from cleanlab.token_classification.rank import get_label_quality_scores as of_tokens

        return pd.Series(-of_tokens(given.tolist(), list(output.softmax(1).movedim(1, -1).numpy()))[0])
    return None


def reproduce_targets(out: Path, *, problems: Sequence[str] = tuple(PROBLEMS), seeds: Sequence[int]) -> list[Row]:
    """Measure what is not saved in OUT/targets.jsonl, and return all rows of these problems and seeds."""
    out.mkdir(parents=True, exist_ok=True)
    done = {(row.problem, row.noise, row.seed) for row in saved_rows(Row, out / ROWS_FILE)}
    for setting in ((problem, noise, seed) for seed in seeds for problem in problems for noise in NOISES):
        if setting not in done:
            append_rows(out / ROWS_FILE, _measured(out, *setting))
    return [row for row in saved_rows(Row, out / ROWS_FILE) if row.problem in problems and row.seed in seeds]


def _measured(out: Path, problem: str, noise: str, seed: int) -> list[Row]:
    planted = PROBLEMS[problem](noise, seed)
    wrong = planted.wrong
    rows = []
    for method, suspicion in rankings(planted, out / f"{problem}-{noise}-{seed}", seed).items():
        first = np.argsort(-suspicion, kind="stable")[: wrong.sum()]
        rows.append(
            Row(
                problem=problem,
                noise=noise,
                seed=seed,
                samples=len(wrong),
                wrong=int(wrong.sum()),
                method=method,
                auc=float(roc_auc_score(wrong, suspicion)),
                found=float(wrong[first].mean()),
            )
        )
    return rows


def summary(rows: Sequence[Row]) -> pd.DataFrame:
    """Mean AUC over the seeds: a row a problem and noise, a column a method."""
    frame = pd.DataFrame([vars(row) for row in rows])
    return frame.pivot_table(index=["problem", "noise"], columns="method", values="auc", sort=False)


def targets(
    problems: Annotated[str, typer.Option(help="Which ones, with commas between.")] = ",".join(PROBLEMS),
    seeds: Annotated[int, typer.Option(min=1, help="How many: 1, 2, ...")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="The first one.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/targets"),
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Wrong values, several labels, pixels and tokens, ranked by several methods.

    If interrupted, the same command resumes after the last setting.

    Example: python -m studies targets --problems diabetes,tokens --seeds 1
    """
    names = named_among(problems, PROBLEMS, "--problems")
    with quiet(silent):
        rows = reproduce_targets(out, problems=names, seeds=range(first_seed, first_seed + seeds))
    table = summary(rows).reset_index()
    headings = [str(name) for name in table]
    cells = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    columns(f"AUC, mean over {seeds} seeds", headings, cells, left=headings[:2])
    write_json(json, {"rows": [vars(row) for row in rows]})


def _cell(value: object) -> str:
    return value if isinstance(value, str) else "" if pd.isna(value) else f"{value:.3f}"  # type: ignore[call-overload]
