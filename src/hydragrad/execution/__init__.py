"""Independent jobs, run in this process or in several.

jobs  run_jobs: results as the jobs end, the same for any number of workers
"""

from hydragrad.execution.jobs import run_jobs as run_jobs
