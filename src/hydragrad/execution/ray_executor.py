"""The machines of a Ray cluster, as an executor: which cluster, and what a job needs of a machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs jobs on a Ray cluster: `executor=hg.RayExecutor(address="auto", resources={"CPU": 2})`.

    Where the program is connected to a cluster already (`ray.init`), that one is used, and `address` is not looked at.

    Attributes:
        address: Of a running cluster ("10.0.0.1:6379", "auto"); None: the one that RAY_ADDRESS names or that runs on
            this machine, else one that is started on this machine for as long as the program runs.
        resources: What a job needs, by Ray's names ("CPU", "GPU", "memory", or your own); None: a CPU, and a GPU
            where the run's model lies on one.
        ship: Whether the run directory is copied to the machines, through Ray's object store. None: to those that do
            not see it under its path.
        retries: How often a job is done again whose worker or machine was lost.
        autoscaling: Whether machines that have what a job needs may still come. Otherwise a cluster without one is
            refused, rather than waited for.
    """

    address: str | None = None
    resources: Mapping[str, float] | None = field(default=None, hash=False)
    ship: bool | None = None
    retries: int = 3
    autoscaling: bool = False
