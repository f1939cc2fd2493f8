"""Where independent jobs run, how many at a time, and which of them this call does: one value."""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from loky import cpu_count

from hydragrad.errors import QueryError
from hydragrad.execution.part import Part, PartOption
from hydragrad.execution.ray_executor import RayExecutor

Named = Literal["here", "processes", "ray"]
ExecutorOption = Named | RayExecutor | Executor | None
"""What `executor=` takes. None: this process, or processes where `workers` is above 1."""

NAMED: tuple[Named, ...] = ("here", "processes", "ray")


class Keywords(TypedDict):
    """What public functions take."""

    executor: ExecutorOption
    workers: int | None
    part: PartOption


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how jobs run; `execution_of` makes it from the keywords of a public function.

    Attributes:
        executor: "here", "processes", Ray, or any other executor.
        workers: Jobs at a time, or None where the executor decides.
        part: The slice of the jobs that this call does, or None: all of them.
    """

    executor: Literal["here", "processes"] | RayExecutor | Executor = "here"
    workers: int | None = None
    part: Part | None = None

    @property
    def here(self) -> bool:
        """Whether jobs run in this process, one after the other."""
        return self.executor == "here"

    @property
    def jobs_at_a_time(self) -> int:
        """How many jobs run at a time, where that is known; else 1."""
        return self.workers or 1

    @property
    def keywords(self) -> Keywords:
        """The keywords of a public function that say the same."""
        return {
            "executor": self.executor,
            "workers": self.workers,
            "part": None if self.part is None else str(self.part),
        }


HERE = Execution()


def execution_of(executor: ExecutorOption = None, workers: int | None = None, part: PartOption = None) -> Execution:
    """Read the keywords `executor`, `workers` and `part` of a public function.

    Args:
        executor: None or "here", "processes", "ray", a `RayExecutor`, or any executor with `submit`.
        workers: Jobs at a time: the number of processes; of other executors, at most so many jobs wait or run.
        part: (3, 16) or "3/16": the third of sixteen slices.

    Raises:
        ValueError: `workers` is below 1.
        QueryError: Another executor, or several workers in this process.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    slice_of_jobs = Part.of(part)
    if executor is None:
        executor = "processes" if (workers or 1) > 1 else "here"
    if executor == "ray":
        executor = RayExecutor()
    if executor == "here":
        if (workers or 1) > 1:
            raise QueryError(f"executor='here' is this process; for workers={workers} take executor='processes'.")
        return Execution(part=slice_of_jobs)
    if executor == "processes":
        workers = workers or max(1, cpu_count(only_physical_cores=True) // torch.get_num_threads())
        return Execution(executor="processes", workers=workers, part=slice_of_jobs)
    if isinstance(executor, str) or not (isinstance(executor, RayExecutor) or hasattr(executor, "submit")):
        raise QueryError(
            f"executor must be one of {', '.join(NAMED)}, an hg.RayExecutor, or an object with submit() such as "
            f"concurrent.futures has, got {executor!r}."
        )
    return Execution(executor=executor, workers=workers, part=slice_of_jobs)
