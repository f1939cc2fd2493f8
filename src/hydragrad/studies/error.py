"""What dropping the curvature costs along a run, beside influence functions at the same steps, and beside a bound.

One recorded run a network. Exact hypergradients of some random training samples are followed step by step, those
without curvature beside them; at evenly spaced steps both, and what influence functions say there, are compared: L2
distance of hypergradients, relative distance, and for contributions to the mean test loss the share of opposite signs
and Spearman over the samples. The hypergradient of influence functions is -(G + damping)^-1 g_i / N, with the training
set's mean Gauss-Newton matrix G and the gradient g_i of the sample at the weights of that step, in eval mode. The
bounds are those of `trust/error.py`.

Source: Chen et al. 2021, section 5.2, which compares the first two at the end of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydragrad.attribution.influence import DampedGaussNewton, query_gradients
from hydragrad.datasets import Splits, load
from hydragrad.derivatives import Layout
from hydragrad.figures import error_over_time
from hydragrad.progress import bar
from hydragrad.replay import Recording
from hydragrad.runs import Checkpoint
from hydragrad.scores import mean_loss, sample_losses
from hydragrad.studies.recipes import cross_entropy
from hydragrad.studies.rows import append_rows, kept_rows
from hydragrad.studies.trust import NETWORKS
from hydragrad.training import train
from hydragrad.trust import approximation_error
from hydragrad.trust.error import PairAt, distances

ROWS_FILE = "error.jsonl"
NONE, INFLUENCE = "none", "influence functions"
DAMPING, ITERATIONS = 0.1, 15


@dataclass(frozen=True, kw_only=True)
class ErrorRow:
    """One estimator after one step of one run; norms and distances are means over the samples drawn so far.

    Attributes:
        data, network, seed, train_size, epochs: The run.
        samples, points: How many training samples are compared, at how many steps.
        estimator: `NONE` or `INFLUENCE`.
        step: Steps made.
        error: L2 distance to the exact hypergradient.
        relative_error: The same over the size of the exact one.
        spearman: Of contributions with the exact ones, over samples.
        sign_disagreements: Share of the samples whose contributions have opposite signs.
        relative_contribution_error: L2 distance of the contributions over the L2 norm of the exact ones.
        exact: L2 norm of the exact hypergradient.
        measured_bound, bound: On the error without curvature; None for influence functions.
    """

    data: str
    network: str
    seed: int
    train_size: int
    epochs: int
    samples: int
    points: int
    estimator: str
    step: int
    error: float
    relative_error: float
    spearman: float
    sign_disagreements: float
    relative_contribution_error: float
    exact: float
    measured_bound: float | None = None
    bound: float | None = None


def reproduce_error(
    out: Path,
    *,
    data: str = "digits",
    data_dir: Path | None = None,
    networks: Sequence[str] = ("mlp", "lenet5", "lenet5-smooth"),
    seed: int = 0,
    train_size: int = 1_000,
    epochs: int = 10,
    samples: int = 16,
    points: int = 8,
    rows_file: Path | None = None,
) -> list[ErrorRow]:
    """Measure what is not there yet, and draw OUT/error-DATA-NETWORK.png; runs and rows are kept.

    Args:
        out: Folder for runs, rows and pictures.
        data: Name of the data set.
        data_dir: Where its files lie.
        networks: Some of `NETWORKS`.
        seed: Of initialisation, order and of the samples.
        train_size: Training samples.
        epochs: Passes over them.
        samples: Random training samples to compare.
        points: Steps at which they are compared, evenly spaced.
        rows_file: Where rows are kept, `ROWS_FILE` in `out` if None.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = rows_file or out / ROWS_FILE
    splits = load(data, data_dir=data_dir, train_size=train_size)
    rows: list[ErrorRow] = []
    for network in networks:
        sizes = {"train_size": len(splits.train), "epochs": epochs, "samples": samples, "points": points}
        setting: dict[str, Any] = {"data": splits.name, "network": network, "seed": seed, **sizes}
        folder = out / f"{splits.name}-{network}-{len(splits.train)}x{epochs}-{seed}"
        done = [row for row in kept_rows(ErrorRow, file) if setting.items() <= asdict(row).items()]
        if not any(row.estimator == NONE for row in done):  # written last
            done = _measured(setting, _trained(folder, splits, network, epochs, seed), splits, file, done)
        ordered = sorted(done, key=lambda row: row.step)
        draw(ordered).savefig(picture(out, ordered[0]), dpi=160)
        rows += ordered
    return rows


def draw(rows: Sequence[ErrorRow]) -> Any:
    """The picture of one run's rows."""
    points = {name: [asdict(row) for row in rows if row.estimator == name] for name in (NONE, INFLUENCE)}
    return error_over_time(points[NONE], others={INFLUENCE: points[INFLUENCE]})


def picture(out: Path, row: ErrorRow) -> Path:
    """Where the picture of a row's run lies."""
    return out / f"error-{row.data}-{row.network}.png"


def influence_hypergradients(
    run: Recording, layout: Layout, at: Checkpoint, samples: Sequence[int], *, damping: float, iterations: int
) -> Tensor:
    """What influence functions take for dw/d(weight of a sample), (samples, parameters).

    Args:
        run: Has loss and training set.
        layout: Lays out the parameters.
        at: The weights in question.
        samples: Training samples.
        damping: Added to the Gauss-Newton matrix's diagonal.
        iterations: Of conjugate gradients, at most.
    """
    matrix = DampedGaussNewton(run, layout, at, damping)
    found = []
    gradients = query_gradients(run, layout, at, sample_losses(run.train_set, samples))
    with bar("influence functions", len(samples), unit="samples") as progress:
        for gradient in gradients:
            found.append(-matrix.solve(gradient, iterations) / run.manifest.data["length"])
            progress.advance()
    return torch.stack(found)


def _trained(folder: Path, splits: Splits, network: str, epochs: int, seed: int) -> Recording:
    torch.manual_seed(seed)
    model = NETWORKS[network](splits.train.tensors[0].shape[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    given: dict[str, Any] = {"epochs": epochs, "batch_size": 64, "seed": seed, "resume": True}
    return train(model, cross_entropy, splits.train, optimizer, out=folder, **given)


def _measured(
    setting: dict[str, Any], run: Recording, splits: Splits, file: Path, done: Sequence[ErrorRow]
) -> list[ErrorRow]:
    """All rows of a run: those of influence functions are kept one by one, the others when their replay ends."""
    rows = list(done)
    generator = torch.Generator().manual_seed(setting["seed"])
    chosen = torch.randperm(len(splits.train), generator=generator)[: setting["samples"]].sort().values.tolist()
    error = approximation_error(
        run,
        samples=chosen,
        query=mean_loss(splits.test, name="test loss"),
        points=setting["points"],
        observe=_beside(setting, run, chosen, file, rows),
    )
    named = {field for field in ErrorRow.__dataclass_fields__ if field not in setting}
    last = [
        ErrorRow(**setting, estimator=NONE, **{name: value for name, value in asdict(at).items() if name in named})
        for at in error.points
    ]
    append_rows(file, last)
    return rows + last


def _beside(
    setting: dict[str, Any], run: Recording, chosen: Sequence[int], file: Path, rows: list[ErrorRow]
) -> Callable[[PairAt], None]:
    """Measures influence functions where the run stands, unless `rows` has it, and keeps the row."""
    kept = {row.step for row in rows}

    def observe(at: PairAt) -> None:
        if at.step in kept:
            return
        here = replace(run.final, parameters=dict(at.parameters), buffers=dict(at.buffers))
        other = influence_hypergradients(run, at.weights, here, chosen, damping=DAMPING, iterations=ITERATIONS)
        size = float(at.exact[at.trained].double().norm(dim=1).mean())
        measured: dict[str, Any] = {"step": at.step, "exact": size, **distances(at, other)}
        row = ErrorRow(**setting, estimator=INFLUENCE, **measured)
        append_rows(file, [row])
        rows.append(row)

    return observe
