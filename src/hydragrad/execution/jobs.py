"""Run independent jobs in this process or in others; the results are the same."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from hydragrad.execution.execution import HERE, Execution
from hydragrad.execution.futures import Futures
from hydragrad.execution.pool import AnotherTry, Pool
from hydragrad.execution.processes import Processes
from hydragrad.execution.ray_executor import RayExecutor
from hydragrad.execution.ray_pool import RayPool
from hydragrad.execution.shipping import Done, Shipment

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    work: Callable[[Job], Result], jobs: Iterable[Job], execution: Execution = HERE
) -> Iterator[tuple[int, Result]]:
    """Run the jobs; yield (number of the job, its result) as they end, in any order.

    Args:
        work: Does one job. Each worker gets one copy of it, with everything it refers to. Work that is `Movable` reads
            a folder; an attribute `on_gpu` that is true makes Ray reserve a GPU for a job.
        jobs: The arguments of `work`, one per job; taken one by one, when there is room for another.
        execution: Where they run.

    Raises:
        Unsupported: The work cannot be pickled, or the workers do not fit.
        WorkerLost: Workers were killed again and again.
    """
    if execution.here:
        for number, job in enumerate(jobs):
            yield number, work(job)
        return
    waiting = enumerate(jobs)
    first = list(islice(waiting, 1))
    if not first:
        return
    pool = _pool(work, execution)
    running: dict[Any, tuple[int, Job]] = {}
    warned = set[tuple[type[Warning], str]]()
    try:
        running[pool.submit(first[0][1])] = first[0]
        while True:
            for number, job in islice(waiting, pool.room - len(running)):
                running[pool.submit(job)] = number, job
            if not running:
                return
            for handle in pool.wait(running):
                number, job = running.pop(handle)
                try:
                    done = pool.result(handle)
                except AnotherTry:
                    running[pool.submit(job)] = number, job
                else:
                    _warn(done, warned)
                    yield number, done.result
    finally:
        pool.close(running)


def _pool(work: Callable[[Any], Any], execution: Execution) -> Pool:
    shipment, executor = Shipment.of(work), execution.executor
    if executor == "processes":
        return Processes(shipment, execution.workers or 1)
    if isinstance(executor, RayExecutor):
        return RayPool(shipment, executor, execution.workers, on_gpu=bool(getattr(work, "on_gpu", False)))
    return Futures(shipment, executor, execution.workers)


def _warn(done: Done, warned: set[tuple[type[Warning], str]]) -> None:
    """Pass on the warnings of a worker, each once."""
    for warning in done.warned:
        if warning not in warned:
            warned.add(warning)
            category, message = warning
            warnings.warn(message, category, stacklevel=4)
