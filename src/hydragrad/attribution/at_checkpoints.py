"""What is computed at each of some checkpoints: jobs, whose results are saved where slices or executors do them."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydragrad.attribution.gradients import query_point
from hydragrad.derivatives import Layout
from hydragrad.errors import QueryError
from hydragrad.execution import HERE, Execution
from hydragrad.randomness import preserved
from hydragrad.replay import Recording, Trained
from hydragrad.runs.kept import Kept, Key, tensor_key
from hydragrad.runs.kept_jobs import kept_jobs
from hydragrad.scores import Query

FACTS = "facts"
Tensors = dict[str, Tensor]


At = tuple[Tensors, dict[str, Any]]
"""Tensors by name, and facts that JSON holds."""


def in_order(
    work: Callable[[int], At],
    count: int,
    execution: Execution,
    folder: Path | None,
    key: Callable[[], Key],
) -> Iterator[At]:
    """Tensors and facts of every checkpoint, in their order.

    Args:
        work: What is computed at the checkpoint of a number.
        count: How many checkpoints.
        execution: Where that is computed.
        folder: Where results are saved until all are there.
        key: What results depend on, next to the number.

    Raises:
        QueryError: An executor or a slice, and no folder.
        Unfinished: A slice, and results of other slices are missing.
    """
    if execution == HERE:
        yield from map(work, range(count))
        return
    if folder is None:
        raise QueryError("executor= and part= need a folder for the results of single checkpoints: give out=.")
    base = key()
    files = [Kept(folder, "partial", [base, number]) for number in range(count)]
    jobs = kept_jobs(_Packed(work), range(count), files, execution, "checkpoints")
    results = dict(jobs)
    if execution.part is None:
        for file in files:
            file.remove()
    for number in range(count):
        tensors = dict(results[number])
        yield tensors, json.loads(bytes(tensors.pop(FACTS).tolist()))


class _Packed:
    """Puts the facts next to the tensors, as bytes; a class, so that it can be sent to workers."""

    def __init__(self, work: Callable[[int], At]) -> None:
        self._work = work

    def __call__(self, number: int) -> Tensors:
        tensors, facts = self._work(number)
        return tensors | {FACTS: torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)}


def folder_of(run: Recording | Any, out: str | Path | None) -> Path | None:
    """Where results are saved: where the caller says, else with the recorded run."""
    if out is not None:
        return Path(out).absolute()
    return run.path / "scores" if isinstance(run, Recording) else None


def key_of(run: Trained, digest: str, queries: Sequence[Query], options: Sequence[Any]) -> Key:
    """Stands for run, queries and options: queries are known by their names and their values at the trained model."""
    point, model = query_point(run, Layout({}), Layout({})), run.trained_model()
    with preserved():
        values = [value for query in queries for value in query.values(model, point)]
    names = [name for query in queries for name in query.names()]
    return [digest, names, tensor_key(torch.tensor(values, dtype=torch.float64)), *options]
