"""Which estimator foretells removals from a fixed run, on runs that are not smooth?

The protocol, fixed before any of its numbers were seen:

- Data: MNIST and Fashion-MNIST, 5,000 training samples; networks of `studies/trust.py`; 5 epochs, batch 64, SGD 0.01
  with momentum 0.9; a run is one seed of initialisation and order.
- Removals, really retrained with weight 0 and all else equal: 30 random groups of 10 %, 20 of 5 % (both halves of the
  first ten groups of 10 %), 20 of 1 %.
- Queries: the mean loss of the first 2,000 test samples, and the losses of test samples 0 and 1.
- Estimators: none; hessian; ggn; ggn damped by 0.01, 0.1 or 1; hessian averaged over K = 2, 4, 8 replays without a
  tenth; ggn over K = 2, 4; influence functions at the final weights (Gauss-Newton matrix, damping 0.1, 15 steps of
  conjugate gradients); TracIn over ten checkpoints.
- Tuned: the damping alone, by the LDS of the mean loss of 2,000 *validation* samples over the removals of 10 %. All of
  the grid is shown; `chosen_damping` says what the validation loss chose.
- Ceilings: the first ten removals of 10 % and of 1 % retrained with the initial weights changed by one rounding (no
  estimator can know more), and actual changes of two halves, summed, against the whole (no additive score can do
  better).
- Reported: LDS with 90 % bootstrap intervals over groups, slope and scale of actual on predicted mean loss, and cost as
  processor time over that of one training.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import TensorDataset

from hydragrad.attribution import attribute
from hydragrad.datasets import Splits, load
from hydragrad.figures import agreement
from hydragrad.recording import Recording
from hydragrad.recording.files import AppendOnlyLines, read_lines, save_file
from hydragrad.scores import Query, mean_loss, sample_losses
from hydragrad.studies.baselines import influence_functions, tracin
from hydragrad.studies.recipes import cross_entropy
from hydragrad.studies.trust import NETWORKS
from hydragrad.training import mean_loss_and_accuracy, train
from hydragrad.training.retraining import Change, retrain
from hydragrad.trust import smoothness
from hydragrad.trust.counterfactual import measure
from hydragrad.trust.lds import lds, lds_interval

Array = NDArray[np.float64]

ROWS_FILE = "estimators.jsonl"
WHOLE, HALF, FEW = 0.1, 0.05, 0.01
HELD_OUT, SINGLE = 2_000, (0, 1)
DAMPINGS = (0.01, 0.1, 1.0)
REPLAYS = (("hessian", 2), ("hessian", 4), ("ggn", 2), ("ggn", 4), ("hessian", 8))
ROUNDED, HALVES = "re-rounded retraining", "two halves, summed"


@dataclass(frozen=True, kw_only=True)
class EstimatorRow:
    """One estimator on one run at one size of removals.

    Attributes:
        data, network, seed: The run.
        test_accuracy: Of the run.
        cosine, rounding_growth: What `smoothness` says of it, at removals of a tenth.
        estimator: What predicts.
        share: Of the samples in a group.
        groups: How many groups.
        lds, lds_low, lds_high: Of the mean test loss, with its 90 % bootstrap interval over groups.
        single, single_low, single_high: Mean LDS of the single test samples.
        slope: Least-squares slope of actual on predicted change of the mean loss.
        scale: The same through the origin.
        tuning_lds: LDS of the mean validation loss, where something was tuned by it.
        trainings: Processor time in trainings of the run.
    """

    data: str
    network: str
    seed: int
    test_accuracy: float
    cosine: float
    rounding_growth: float
    estimator: str
    share: float
    groups: int
    lds: float
    lds_low: float
    lds_high: float
    single: float
    single_low: float
    single_high: float
    slope: float | None
    scale: float | None
    tuning_lds: float | None
    trainings: float


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One run with its queries and really retrained removals.

    Attributes:
        run: The run.
        splits: Its data.
        groups: Samples of every group, by share.
        actual: Changes of [mean test loss, singles, mean validation loss], (queries, groups), by share.
        training: Processor seconds of one training.
        facts: Entries of every row.
    """

    run: Recording
    splits: Splits
    groups: dict[float, list[list[int]]]
    actual: dict[float, Array]
    training: float
    facts: dict[str, Any]


def reproduce_estimators(
    out: Path,
    *,
    data: str,
    data_dir: Path | None = None,
    networks: Sequence[str] = ("mlp", "lenet5", "batch-norm"),
    seeds: Sequence[int] = (0,),
    train_size: int = 5_000,
    epochs: int = 5,
    groups: int = 30,
    replays: bool = True,
    workers: int = 1,
) -> list[EstimatorRow]:
    """Measure; runs, retrainings and estimates in `out` are kept, so that an interrupted call goes on.

    Args:
        out: Folder for the runs and the rows.
        data: Name of the data set.
        data_dir: Where its files lie.
        networks: Some of `NETWORKS`.
        seeds: One run each.
        train_size: Training samples.
        epochs: Passes over them.
        groups: Groups of the largest size; two thirds as many of the others. A multiple of three.
        replays: Also the averages over replays, which cost the most.
        workers: Processes that retrain at the same time.
    """
    out.mkdir(parents=True, exist_ok=True)
    splits = load(data, data_dir=data_dir, train_size=train_size)
    rows: list[EstimatorRow] = []
    for name in networks:
        for seed in seeds:
            folder = out / f"{data}-{name}-{seed}"
            case = _case(folder, splits, name, seed, epochs, groups, workers)
            file = folder / ROWS_FILE
            done = [EstimatorRow(**row) for row in read_lines(file, "rows")] if file.exists() else []
            log = AppendOnlyLines(file, keep=len(done))
            for estimator, estimate in _estimators(case, replays=replays).items():
                if not any(row.estimator == estimator for row in done):
                    new = estimate()
                    done += new
                    for row in new:
                        log.append(asdict(row))
            log.close()
            rows += done
    return rows


def chosen_damping(rows: Sequence[EstimatorRow]) -> str | None:
    """The damped estimator of one run that the validation loss chose; None without any."""
    tuned = [row for row in rows if row.tuning_lds is not None and row.share == WHOLE]
    return max(tuned, key=lambda row: row.tuning_lds or 0.0).estimator if tuned else None


def _case(folder: Path, splits: Splits, name: str, seed: int, epochs: int, count: int, workers: int) -> _Case:
    torch.manual_seed(seed)
    model = NETWORKS[name](splits.train.tensors[0].shape[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    given: dict[str, Any] = {"epochs": epochs, "batch_size": 64, "out": folder, "seed": seed, "resume": True}
    run = train(model, cross_entropy, splits.train, optimizer, **given)
    groups = _groups(len(splits.train), count, seed)
    queries = _queries(splits)
    actual = {share: _changes(run, [_without(g) for g in some], queries, workers) for share, some in groups.items()}
    begin = time.process_time()
    list(retrain(run, [_without([0])], workers=1, keep=False))
    training = time.process_time() - begin
    smooth = smoothness(run, query=queries[0], steps=(0.5,), workers=workers)
    accuracy = mean_loss_and_accuracy(run.trained_model(), cross_entropy, splits.test)[1]
    facts = {"data": splits.name, "network": name, "seed": seed, "test_accuracy": accuracy}
    facts |= {"cosine": smooth.probes[-1].cosine, "rounding_growth": smooth.rounding_growth}
    return _Case(run=run, splits=splits, groups=groups, actual=actual, training=training, facts=facts)


def _groups(length: int, count: int, seed: int) -> dict[float, list[list[int]]]:
    generator = torch.Generator().manual_seed(1_000 + seed)

    def draw(share: float, number: int) -> list[list[int]]:
        size = max(1, round(share * length))
        return [torch.randperm(length, generator=generator)[:size].tolist() for _ in range(number)]

    whole = draw(WHOLE, count)
    halves = [half for group in whole[: count // 3] for half in (group[::2], group[1::2])]
    return {WHOLE: whole, HALF: halves, FEW: draw(FEW, 2 * (count // 3))}


def _queries(splits: Splits) -> list[Query]:
    test, validation = (_first(part) for part in (splits.test, splits.validation))
    return [
        mean_loss(test, name="test loss"),
        sample_losses(splits.test, SINGLE),
        mean_loss(validation, name="validation loss"),
    ]


def _first(part: TensorDataset) -> TensorDataset:
    return TensorDataset(*(tensor[:HELD_OUT] for tensor in part.tensors))


def _without(group: Sequence[int], *, noise: float = 0.0) -> Change:
    return Change(weights=dict.fromkeys(group, 0.0), noise=noise)


def _changes(run: Recording, changes: Sequence[Change], queries: Sequence[Query], workers: int) -> Array:
    return measure(run, retrain(run, changes, workers=workers, keep=True), queries)[1].numpy()


def _estimators(case: _Case, *, replays: bool) -> dict[str, Callable[[], list[EstimatorRow]]]:
    """What makes the rows of every estimator, the cheap ones first."""
    given = partial(_predicted, case)
    found: dict[str, Callable[[], list[EstimatorRow]]] = {
        ROUNDED: partial(_rounded, case),
        HALVES: partial(_halves, case),
        "none": partial(given, "none", {"curvature": "none"}),
        "hessian": partial(given, "hessian", {"curvature": "hessian"}),
        "ggn": partial(given, "ggn", {"curvature": "ggn"}),
    }
    for damping in DAMPINGS:
        name = f"ggn, damping {damping:g}"
        found[name] = partial(given, name, {"curvature": "ggn", "damping": damping}, tuned=True)
    found["influence functions"] = partial(_baseline, case, "influence functions")
    found["TracIn"] = partial(_baseline, case, "TracIn")
    for curvature, count in REPLAYS if replays else ():
        name = f"{curvature}, {count} replays"
        found[name] = partial(_averaged, case, name, curvature, count)
    return found


def _predicted(case: _Case, name: str, options: dict[str, Any], *, tuned: bool = False) -> list[EstimatorRow]:
    values, seconds = _estimate(case, name, options, tuned=tuned)
    return _rows(case, name, values, seconds)


def _estimate(case: _Case, name: str, options: dict[str, Any], *, tuned: bool = False) -> tuple[Array, float]:
    queries = _queries(case.splits)
    asked = queries if tuned else queries[:-1]
    return _kept(case, name, lambda: attribute(case.run, asked, **options).values)


def _averaged(case: _Case, name: str, curvature: str, count: int) -> list[EstimatorRow]:
    each = [
        _estimate(case, f"{curvature} replay {number}", {"curvature": curvature, "replays": [number]})
        for number in range(count)
    ]
    return _rows(case, name, np.mean([values for values, _ in each], axis=0), sum(seconds for _, seconds in each))


def _baseline(case: _Case, name: str) -> list[EstimatorRow]:
    measure_one: Callable[[Query], Tensor] = (
        partial(tracin, case.run)
        if name == "TracIn"
        else partial(influence_functions, case.run, damping=0.1, iterations=15)
    )
    values, seconds = _kept(case, name, lambda: torch.cat([measure_one(query) for query in _queries(case.splits)[:-1]]))
    return _rows(case, name, values, seconds)


def _kept(case: _Case, name: str, compute: Callable[[], Tensor]) -> tuple[Array, float]:
    """Values and processor seconds of an estimate, computed once."""
    file = case.run.path / "estimates" / f"{name}.safetensors"
    if not file.exists():
        begin = time.process_time()
        values = compute()
        seconds = torch.tensor(time.process_time() - begin, dtype=torch.float64)
        file.parent.mkdir(exist_ok=True)
        save_file({"values": values, "seconds": seconds}, file, {})
    kept = load_file(file)
    return kept["values"].numpy(), kept["seconds"].item()


def _rounded(case: _Case) -> list[EstimatorRow]:
    epsilon = torch.finfo(torch.float32).eps
    rows = []
    for share in (WHOLE, FEW):
        some = case.groups[share][: len(case.groups[HALF]) // 2]
        again = _changes(case.run, [_without(g, noise=epsilon) for g in some], _queries(case.splits), workers=1)
        rows.append(_row(case, ROUNDED, share, again, case.actual[share][:, : len(some)], len(some) * case.training))
    return rows


def _halves(case: _Case) -> list[EstimatorRow]:
    summed = case.actual[HALF][:, ::2] + case.actual[HALF][:, 1::2]
    count = summed.shape[1]
    return [_row(case, HALVES, WHOLE, summed, case.actual[WHOLE][:, :count], 2 * count * case.training)]


def _rows(case: _Case, name: str, values: Array, seconds: float) -> list[EstimatorRow]:
    rows = []
    for share, groups in case.groups.items():
        predicted = np.stack([values[:, group].sum(1) for group in groups], axis=1)
        rows.append(_row(case, name, share, predicted, case.actual[share], seconds))
    return rows


def _row(case: _Case, name: str, share: float, predicted: Array, actual: Array, seconds: float) -> EstimatorRow:
    mean, single, tuning = slice(0, 1), slice(1, 1 + len(SINGLE)), slice(1 + len(SINGLE), None)
    intervals = [lds_interval(predicted[rows], actual[rows]) for rows in (mean, single)]
    (p,), (a,) = predicted[mean], actual[mean]
    slope = agreement(p, a).slope
    tuned = len(predicted) > 1 + len(SINGLE) and name not in (ROUNDED, HALVES)
    return EstimatorRow(
        **case.facts,
        estimator=name,
        share=share,
        groups=len(p),
        lds=lds(predicted[mean], actual[mean]),
        lds_low=intervals[0][0],
        lds_high=intervals[0][1],
        single=lds(predicted[single], actual[single]),
        single_low=intervals[1][0],
        single_high=intervals[1][1],
        slope=None if np.isnan(slope) else slope,
        scale=float(p @ a / (p @ p)) if p.any() else None,
        tuning_lds=lds(predicted[tuning], actual[tuning]) if tuned else None,
        trainings=seconds / case.training,
    )
