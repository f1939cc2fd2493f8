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
    """Yield (number of the job, its result) as the jobs end, in any order.

    Args:
        work: Does one job. Workers get a copy of it once, with everything it refers to.
        jobs: What to do, one at a time.
        workers: Processes, one torch thread each unless the work says otherwise; 1 works in this process.

    Raises:
        ValueError: No workers.
        Unsupported: The work can't be sent to another process.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}.")
    if workers == 1 or len(jobs) < 2:
        for number, job in enumerate(jobs):
            yield number, work(job)
        return
    try:
        sent = cloudpickle.dumps(work)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise Unsupported(
            f"The model, loss or data set can't be sent to worker processes ({error}). Use workers=1, or keep open "
            f"files, locks and generators out of them."
        ) from error
    pool = ProcessPoolExecutor(min(workers, len(jobs)), initializer=_receive, initargs=(sent,))
    try:
        waiting = {pool.submit(_do, job): number for number, job in enumerate(jobs)}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _receive(sent: bytes) -> None:
    global _work
    torch.set_num_threads(1)
    silence()
    _work = cloudpickle.loads(sent)


def _do(job: Any) -> Any:
    assert _work is not None
    return _work(job)
