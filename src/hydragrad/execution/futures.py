"""Any executor with `submit`: those of concurrent.futures, Dask's client.get_executor(), submitit."""

import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future
from concurrent.futures import wait as wait_for
from typing import Any

from hydragrad.execution.pool import worker_lost
from hydragrad.execution.shipping import Done, Shipment, do_shipped

ROOM = 64
"""Jobs that wait or run, where `workers` does not say how many."""

POLL_SECONDS = 0.5
"""Between two looks at jobs that can't be waited for."""


class Futures:
    """Jobs in an executor that the caller made and closes; the work goes with every job.

    Args:
        shipment: The work.
        executor: Has `submit(function, *args)`, which returns an object with `done()` and `result()`.
        workers: Jobs that wait or run at the same time, at most.
    """

    def __init__(self, shipment: Shipment, executor: Any, workers: int | None) -> None:
        self._shipment, self._executor = shipment, executor
        self.room = workers or ROOM

    def submit(self, job: Any) -> Any:
        """Start a job."""
        return self._executor.submit(do_shipped, self._shipment, job)

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """Wait for a job."""
        if all(isinstance(handle, Future) for handle in handles):
            return wait_for(handles, return_when=FIRST_COMPLETED).done
        while not (done := [handle for handle in handles if handle.done()]):
            time.sleep(POLL_SECONDS)
        return done

    def result(self, handle: Any) -> Done:
        """What an ended job gave."""
        try:
            done: Done = handle.result()
        except BrokenExecutor as error:
            raise worker_lost(error) from error  # a broken executor takes no more jobs
        return done

    def close(self, handles: Collection[Any]) -> None:
        """Cancel jobs that have not started."""
        for handle in handles:
            handle.cancel()
