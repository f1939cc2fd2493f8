"""Run independent jobs in this process or in worker processes; the results are the same."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from typing import Any, TypeVar

import cloudpickle
import torch
from loky import ProcessPoolExecutor

from hydragrad.errors import Unsupported
from hydragrad.progress import silence

Job = TypeVar("Job")
Result = TypeVar("Result")

_work: Callable[[Any], Any] | None = None


def run_jobs(work: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int = 1) -> Iterator[tuple[int, Result]]:
    """Run the jobs; yield (number of the job, its result) as they end, in any order.

    Args:
        work: Does one job. Each worker gets one copy of it, with everything it refers to.
        jobs: The arguments of `work`, one per job.
        workers: Number of processes, with one torch thread each unless the work sets another number; 1 uses this
            process.

    Raises:
        ValueError: `workers` is below 1.
        Unsupported: The work cannot be pickled.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    if workers == 1 or len(jobs) < 2:
        for number, job in enumerate(jobs):
            yield number, work(job)
        return
    try:
        pickled_work = cloudpickle.dumps(work)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise Unsupported(
            f"The model, loss and data set must be picklable to reach worker processes: {error}. Use workers=1, or "
            f"remove open files, locks and generators from them."
        ) from error
    pool = ProcessPoolExecutor(min(workers, len(jobs)), initializer=_receive, initargs=(pickled_work,))
    try:
        numbers = {pool.submit(_do, job): number for number, job in enumerate(jobs)}
        for future in as_completed(numbers):
            yield numbers[future], future.result()
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _receive(pickled_work: bytes) -> None:
    global _work
    torch.set_num_threads(1)
    silence()
    _work = cloudpickle.loads(pickled_work)


def _do(job: Any) -> Any:
    assert _work is not None
    return _work(job)
