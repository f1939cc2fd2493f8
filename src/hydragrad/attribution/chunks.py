"""Chunks of the queries' scalars: the jobs of an attribution by sweeps, where there are more scalars than share one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from hydragrad.attribution.gradients import QueryGradients, gradients_in_chunks, gradients_of_some
from hydragrad.attribution.partial import Partial
from hydragrad.attribution.plan import Plan
from hydragrad.attribution.routes import Comparisons
from hydragrad.attribution.summed import Summed, packed, unpacked
from hydragrad.attribution.sweep import sweep
from hydragrad.attribution.tally import Tally
from hydragrad.derivatives.held import Held
from hydragrad.execution import Execution
from hydragrad.progress import bar
from hydragrad.replay.on_run import OnRun
from hydragrad.runs.kept import Kept
from hydragrad.runs.kept_jobs import kept_jobs
from hydragrad.scores import Query

COMPARED = "compared"


class Chunk(NamedTuple):
    """Some of the queries' scalars.

    Attributes:
        names, values: Theirs.
        numbers: Which of all scalars.
        queries: Comparisons of their gradients with tangents.
    """

    names: tuple[str, ...]
    values: tuple[float, ...]
    numbers: range
    queries: Held

    @classmethod
    def of(cls, gradients: QueryGradients, start: int) -> "Chunk":
        """The chunk of some gradients, the first of which has the number `start`."""
        numbers = range(start, start + len(gradients.names))
        return cls(gradients.names, gradients.values, numbers, gradients.held)


def chunk_file(plan: Plan, gradients: QueryGradients) -> Kept:
    """Where the finished sums of a chunk lie until all chunks are finished."""
    return Partial(plan, gradients, plan.method.curvature).of_job("a whole chunk")


def sweep_chunks(
    plan: Plan, queries: Sequence[Query], size: int, *, memory: int, comparisons: Comparisons, execution: Execution
) -> list[tuple[Chunk, Summed]]:
    """Sweep the run for every chunk, as jobs whose results are saved one by one.

    The gradients are taken twice: here, to know which chunks are finished, and where a chunk is swept.

    Args:
        plan: Which run and method.
        queries: All of them.
        size: Scalars of a chunk, at most.
        memory: Bytes that replayed states may take.
        comparisons: Count what is compared.
        execution: Where chunks are swept.

    Raises:
        Unfinished: A slice of the chunks, and results of others are missing.
    """
    chunks, files = list[Chunk](), list[Kept]()
    for gradients in gradients_in_chunks(plan, queries, size):
        chunks.append(Chunk.of(gradients, chunks[-1].numbers.stop if chunks else 0))
        files.append(chunk_file(plan, gradients))
    results: dict[int, Summed] = {}
    work = _ChunkSweep(plan, queries, memory)
    with bar("attributing", len(chunks), unit="chunks of queries") as progress:
        jobs = [chunk.numbers for chunk in chunks]
        for place, tensors in kept_jobs(work, jobs, files, execution, "chunks of queries"):
            results[place] = unpacked(tensors, Tally(plan, len(jobs[place])))
            comparisons.take_in(tensors[COMPARED])
            progress.advance()
    if execution.part is None:
        for file in files:
            file.remove()
    return [(chunk, results[place]) for place, chunk in enumerate(chunks)]


class _ChunkSweep(OnRun):
    """Sweeps the run for some scalars."""

    def __init__(self, plan: Plan, queries: Sequence[Query], memory: int) -> None:
        super().__init__(plan.run)
        self._plan, self._queries, self._memory = plan, queries, memory

    def __call__(self, numbers: range) -> dict[str, Tensor]:
        plan, compared = replace(self._plan, run=self.run), Comparisons.fresh()
        gradients = gradients_of_some(plan, self._queries, numbers)
        summed = sweep(plan, gradients, memory=self._memory, comparisons=compared)
        return packed(summed) | {COMPARED: compared.packed()}


def scalars_at_once(plan: Plan, memory: int) -> int:
    """Scalars whose directions fit into memory several times over."""
    return max(1, memory // (4 * max(1, plan.weights.size) * plan.like.element_size()))
