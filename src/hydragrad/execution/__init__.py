"""Independent jobs, run in this process or in others, on this machine or on many; results are the same.

execution     where jobs run, how many at a time, which slice of them: one value
part          a slice of the jobs
jobs          run_jobs: results as the jobs end
shipping      work on its way to another process, and there
folders       the folder that work reads, seen or copied elsewhere
pool          the protocol of what runs jobs elsewhere
processes     processes of this machine
futures       any executor with submit
ray_executor  a Ray cluster, as a value
ray_address   whether a Ray cluster answers
ray_pool      jobs on a Ray cluster
claims        jobs that a process works on, so that no other does
"""

from hydragrad.execution.execution import HERE as HERE
from hydragrad.execution.execution import Execution as Execution
from hydragrad.execution.execution import ExecutorOption as ExecutorOption
from hydragrad.execution.execution import Keywords as Keywords
from hydragrad.execution.execution import execution_of as execution_of
from hydragrad.execution.jobs import run_jobs as run_jobs
from hydragrad.execution.part import PartOption as PartOption
from hydragrad.execution.ray_executor import RayExecutor as RayExecutor
