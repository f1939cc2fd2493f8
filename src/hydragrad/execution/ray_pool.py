"""Jobs on a Ray cluster: the work and, where needed, the run's files travel once, a lost worker's job is done again."""

import logging
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from hydragrad.errors import FrameworkMissing, Unsupported
from hydragrad.execution.pool import AnotherTry, worker_lost
from hydragrad.execution.ray_address import cluster_address
from hydragrad.execution.ray_executor import RayExecutor
from hydragrad.execution.shipping import Content, Done, Label, Shipment, do

ROOM = 256
"""Jobs that wait or run, where `workers` does not say how many; those that wait tell an autoscaler what is needed."""

POLL_SECONDS = 1.0
"""Between two looks whether Ctrl-C was pressed."""

FAMILIES = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""Resources that Ray has options of their own for."""


class Unseen(NamedTuple):
    """What a job gives on a machine that does not see the run's files."""


class RayPool:
    """Tasks of a Ray cluster.

    Args:
        shipment: The work.
        executor: Which cluster, and what a job needs.
        workers: Jobs that wait or run at the same time, at most.
        on_gpu: Whether the work computes on a GPU.

    Raises:
        FrameworkMissing: Ray is not installed.
        Unsupported: There is no such cluster, or none of its machines has what a job needs.
    """

    def __init__(self, shipment: Shipment, executor: RayExecutor, workers: int | None, *, on_gpu: bool) -> None:
        self._ray = _connected(executor)
        self._shipment, self._executor = shipment, executor
        self.room = workers or ROOM
        self._archive: Any = None
        needs = dict(executor.resources or {"CPU": 1} | ({"GPU": 1} if on_gpu else {}))
        if not executor.autoscaling:
            _require_possible(self._ray, needs)
        self._about, self._work = shipment.label, self._ray.put(shipment)
        if executor.ship and shipment.label.listing is not None:
            self._archive = self._ray.put(shipment.label.listing.packed())
        self._task = self._ray.remote(**_options(needs), max_retries=executor.retries)(_do)

    def submit(self, job: Any) -> Any:
        """Start a job."""
        return self._task.remote(self._about, [self._work], self._executor.ship, [self._archive], job)

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """Wait for a job."""
        while True:
            done, _ = self._ray.wait(list(handles), num_returns=1, timeout=POLL_SECONDS)
            if done:
                return list(done)

    def result(self, handle: Any) -> Done:
        """What an ended job gave."""
        errors = self._ray.exceptions
        try:
            result: Done | Unseen = self._ray.get(handle)
        except errors.RayTaskError as error:
            raise (error.cause or error) from error
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError) as error:
            raise worker_lost(error) from error  # Ray has done the job again
        if isinstance(result, Unseen):
            if self._archive is None:
                assert self._shipment.label.listing is not None
                self._archive = self._ray.put(self._shipment.label.listing.packed())
            raise AnotherTry  # with the archive
        return result

    def close(self, handles: Collection[Any]) -> None:
        """Cancel jobs that have not ended; the connection stays for the next call."""
        for handle in handles:
            self._ray.cancel(handle, force=True)


def _connected(executor: RayExecutor) -> Any:
    try:
        import ray
    except ImportError as error:
        raise FrameworkMissing(
            "executor='ray' needs Ray, which is not installed. Install it: pip install 'hydragrad[ray]'."
        ) from error
    if not ray.is_initialized():
        address = cluster_address(executor.address)
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise Unsupported(
                f"RayExecutor must name a running cluster, and {executor.address!r} can't be used: {error}. Start it "
                f"(ray start --head), or leave the address out for one on this machine."
            ) from error
    return ray


def _options(needs: Mapping[str, float]) -> dict[str, Any]:
    """What a job needs, as Ray's options; a job without a number for "CPU" needs one."""
    named = {FAMILIES[name]: amount for name, amount in needs.items() if name in FAMILIES}
    own = {name: amount for name, amount in needs.items() if name not in FAMILIES}
    return named | ({"resources": own} if own else {})


def _require_possible(ray: Any, needs: Mapping[str, float]) -> None:
    """Refuse jobs that would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0.0) >= amount for name, amount in needs.items()) for machine in machines):
        best = {name: max((machine.get(name, 0.0) for machine in machines), default=0.0) for name in needs}
        raise Unsupported(
            f"A job needs {_in_words(needs)} of one machine, and no machine of the Ray cluster has more than "
            f"{_in_words(best)}. Choose others (hg.RayExecutor(resources=...)), start a machine that has them, or wait "
            f"for one with autoscaling=True."
        )


def _in_words(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in amounts.items())


def _do(label: Label, work: list[Any], ship: bool | None, archive: list[Any], job: Any) -> Done | Unseen:
    """In a worker; references in lists are fetched when they are needed, once a process."""
    import ray

    def content() -> Content:
        shipment: Shipment = ray.get(work[0])
        return shipment.content

    listing = label.listing
    if listing is None or ship is False or (ship is None and listing.seen()):
        return do(label, content, job)
    if archive[0] is None:
        return Unseen()
    return do(label, content, job, lambda: listing.copy(ray.get(archive[0])))
