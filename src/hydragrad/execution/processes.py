"""Processes of this machine, made for one call."""

from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for
from typing import Any

from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool, ShutdownExecutorError

from hydragrad.execution.pool import AnotherTry, worker_lost
from hydragrad.execution.shipping import Done, Shipment, do_shipped

WAITING = 1
"""Jobs that wait, so that no process is idle while a result is taken in."""

LOSSES = 3
"""Times that processes are started again: what kills them more often will not stop."""


class Processes:
    """A pool of processes; each gets the work once.

    Args:
        shipment: The work.
        workers: How many.
    """

    def __init__(self, shipment: Shipment, workers: int) -> None:
        self._shipment, self._workers = shipment, workers
        self.room, self._losses = workers + WAITING, 0
        self._pool = self._start()

    def submit(self, job: Any) -> "Future[Done]":
        """Start a job."""
        try:
            future: Future[Done] = self._pool.submit(_do, job)
        except (BrokenProcessPool, ShutdownExecutorError) as error:
            self._losses += 1
            if self._losses > LOSSES:
                raise worker_lost(error) from error
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = self._start()
            future = self._pool.submit(_do, job)
        return future

    def wait(self, handles: Collection["Future[Done]"]) -> Collection["Future[Done]"]:
        """Wait for a job."""
        return wait_for(handles, return_when=FIRST_COMPLETED).done

    def result(self, handle: "Future[Done]") -> Done:
        """What an ended job gave."""
        try:
            return handle.result()
        except BrokenProcessPool as error:
            raise AnotherTry from error  # in new processes

    def close(self, handles: Collection["Future[Done]"]) -> None:
        """End the processes, whatever they do."""
        self._pool.shutdown(wait=True, kill_workers=True)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._workers, initializer=_receive, initargs=(self._shipment,))


_shipment: Shipment


def _receive(shipment: Shipment) -> None:
    global _shipment
    _shipment = shipment


def _do(job: Any) -> Done:
    return do_shipped(_shipment, job)
