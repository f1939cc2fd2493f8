"""`bank`: really make recorded runs again without some samples, and save what the queries were then."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydragrad.errors import DataError, QueryError, RecordingMismatch, Unfinished
from hydragrad.execution import Execution, ExecutorOption, PartOption, execution_of
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change, one_rounding
from hydragrad.replay.retraining import retrain
from hydragrad.scores import Method, Query, Removal, numbered, queries_of
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import require_recorded
from hydragrad.trust.counterfactual import measure, require_completed, warn_of_overlap
from hydragrad.trust.retrainings import Bank

Groups = Sequence[Sequence[int]]


@in_clean_surroundings
def bank(
    run: Recording | Sequence[Recording],
    queries: Query | Sequence[Query],
    *,
    subsets: int = 40,
    size: int | float = 0.1,
    groups: Groups | None = None,
    seed: int = 0,
    weight: float = 0.0,
    removal: Removal = "weight",
    repeats: int = 0,
    halves: int = 0,
    path: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    executor: ExecutorOption = None,
    workers: int | None = None,
    part: PartOption = None,
    keep: bool = True,
) -> Bank:
    """Make a bank: the queries after each of many retrainings without random samples.

    Args:
        run: A completed run; or several, of other seeds on the same data: each is made again without the same samples.
        queries: Scalars of the final model.
        subsets: How many random groups are left out, one at a time.
        size: Samples of a group: a number, or a share of all as a float below 1.
        groups: Instead: the groups themselves. `[[i] for i in some]` are single removals.
        seed: Of the random groups; the same groups as those of `hg.verify` with this seed.
        weight: Loss weight of what is left out, where it is not 0.
        removal: What leaving a group out means, as for `hg.counterfactual`.
        repeats: For how many of the first groups the retraining is made once more from initial weights changed by one
            rounding: how far repeats predict each other is a ceiling for every score.
        halves: For how many of the first groups both halves are left out, too, one by one: how far removals add up.
        path: Where the bank is written; a bank of the same runs there is replaced.
        about: Further settings to save in it (protocol, seed rule), as values that JSON holds.
        executor, workers, part: Where they train, and which slice of them, as `hg.counterfactual` takes it.
        keep: Save the final weights of every retraining in RUN/retrained, so that an interrupted call resumes.

    Raises:
        QueryError: Ids out of range, empty groups, a share that is none, or an interrupted run.
        DataError: Groups as large as the data.
        RecordingMismatch: Runs on different data, or a file of something else at `path`.
        ReplayMismatch: A run that can't be repeated.
        Unfinished: `part`, and results of other slices are missing.

    Cost: a training for each group, repeat and half, and each run.

    Source: Park et al. 2023, TRAK (subsets); Bae et al. 2024 and Ilyas and Engstrom 2025 (a fixed trajectory).
    """
    runs = [run] if isinstance(run, Recording) else list(run)
    listed = queries_of(queries)
    _check(runs, path)
    length = runs[0].manifest.data["length"]
    chosen = _random(length, subsets, size, seed) if groups is None else [[int(i) for i in group] for group in groups]
    _check_groups(chosen, length, weight)
    warn_of_overlap(runs[0], listed)
    renormalised = Method(removal=removal).removal == "renormalised"
    execution = execution_of(executor, workers, part)
    made, missing = list[_Made](), list[Unfinished]()
    for one in runs:
        try:
            made.append(_Made.of(one, listed, chosen, weight, renormalised, repeats, halves, execution, keep))
        except Unfinished as error:  # a slice does its share of every run
            missing.append(error)
    if missing:
        raise missing[-1]
    first = [group[::2] if number < halves and len(group) > 1 else [] for number, group in enumerate(chosen)]
    result = Bank(
        left_out=_masks(chosen, length),
        values=torch.stack([one.values for one in made], 1),
        query_names=numbered(name for query in listed for name in query.names()),
        sample_ids=torch.arange(length),
        untouched=torch.stack([one.untouched for one in made], 1),
        weights=torch.full((len(chosen),), float(weight), dtype=torch.float64),
        repeats=torch.stack([one.repeats for one in made], 1) if repeats else None,
        halves=torch.stack([one.halves for one in made], 1) if halves else None,
        first_halves=_masks(first, length) if halves else None,
        runs=tuple(one.digest for one in runs),
        settings=_settings(runs, None if groups is not None else seed, size, removal) | dict(about or {}),
    )
    if path is not None:
        result.save(path)
    return result


class _Made:
    """What the queries were after the retrainings of one run: (queries, groups), halves (queries, groups, 2)."""

    def __init__(self, untouched: Tensor, values: Tensor, repeats: Tensor, halves: Tensor) -> None:
        self.untouched, self.values, self.repeats, self.halves = untouched, values, repeats, halves

    @classmethod
    def of(
        cls,
        run: Recording,
        queries: Sequence[Query],
        groups: Groups,
        weight: float,
        renormalised: bool,
        repeats: int,
        halves: int,
        execution: Execution,
        keep: bool,
    ) -> "_Made":
        rounding = one_rounding(run)
        halved = [number for number, group in enumerate(groups[:halves]) if len(group) > 1]
        change = partial(_change, weight=weight, renormalised=renormalised)
        changes = [change(group) for group in groups]
        changes += [change(group, noise=rounding) for group in groups[:repeats]]
        changes += [change(half) for number in halved for half in (groups[number][::2], groups[number][1::2])]
        before, differences = measure(run, retrain(run, changes, execution=execution, keep=keep), queries)
        values = before[:, None] + differences
        count, end = len(groups), len(groups) + len(groups[:repeats])
        of_repeats, of_halves = (torch.full((len(before), count, *more), torch.nan).double() for more in ((), (2,)))
        of_repeats[:, : end - count] = values[:, count:end]
        of_halves[:, halved] = values[:, end:].reshape(len(before), len(halved), 2)
        return cls(before, values[:, :count], of_repeats, of_halves)


def _change(group: Sequence[int], *, weight: float, renormalised: bool, noise: float = 0.0) -> Change:
    return Change(weights=dict.fromkeys(group, float(weight)), noise=noise, renormalised=renormalised)


def _masks(groups: Iterable[Sequence[int]], length: int) -> Tensor:
    rows = []
    for group in groups:
        row = torch.zeros(length, dtype=torch.bool)
        row[list(group)] = True
        rows.append(row)
    return torch.stack(rows)


def _random(length: int, subsets: int, size: int | float, seed: int) -> list[list[int]]:
    count = size if isinstance(size, int) else max(1, round(size * length))
    if subsets < 1 or count < 1 or (isinstance(size, float) and not 0 < size < 1):
        raise QueryError(
            f"A bank takes at least one subset, of at least one sample or a share between 0 and 1, got {subsets} "
            f"subsets of {size}."
        )
    if count >= length:
        raise DataError(f"Groups of {count:,} are too large: there are {length:,} samples.")
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(length, generator=generator)[:count].tolist() for _ in range(subsets)]


def _check(runs: Sequence[Recording], path: str | Path | None) -> None:
    if not runs:
        raise QueryError("A bank needs the run that is made again, or several, got none.")
    for run in runs:
        require_recorded(run, "bank")
        require_completed(run)
        if run.manifest.data != runs[0].manifest.data:
            raise RecordingMismatch(
                f"{runs[0].path} and {run.path} were trained on different data, so they can't be made again without "
                f"the same samples. Give runs on one training set."
            )
    if path is not None and Path(path).exists() and Bank.open(path).runs != tuple(run.digest for run in runs):
        raise RecordingMismatch(f"{path} is a bank of other runs. Name another path, or delete it.")


def _check_groups(groups: Groups, length: int, weight: float) -> None:
    for group in groups:
        wrong = [i for i in group if not 0 <= i < length]
        if wrong or not group:
            got = str(wrong[:5]) if wrong else "an empty group"
            raise QueryError(f"The run was trained on samples 0 to {length - 1}, got {got}.")
        if weight == 0 and len(set(group)) == length:
            raise DataError("Leaving out every training sample leaves nothing to train on.")
    if not groups or weight == 1 or not abs(weight) < float("inf"):
        raise QueryError(f"A bank needs groups, and a finite weight other than 1 for them, got weight={weight}.")


def _settings(runs: Sequence[Recording], seed: int | None, size: int | float, removal: Removal) -> dict[str, Any]:
    """What the bank says of itself."""
    manifest = runs[0].manifest
    parameters = sum(torch.Size(shape).numel() for shape, _ in manifest.model["parameters"].values())
    return {
        "protocol": "the recorded run made again: initialisation, order and randomness as they were",
        "removal": removal,
        "groups": "named" if seed is None else "random",
        "groups_seed": seed,
        "size": None if seed is None else size,
        "run_seeds": [run.manifest.seed for run in runs],
        "model": manifest.model["class"],
        "parameters": parameters,
        "optimizers": manifest.optimizers,
        "steps": len(runs[0].steps),
        "data": manifest.data,
        "machine": manifest.machine,
    }
