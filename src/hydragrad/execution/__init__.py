"""Many independent jobs, in this process or in several."""

from hydragrad.execution.jobs import run_jobs

__all__ = ["run_jobs"]
