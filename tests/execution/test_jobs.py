import threading

import pytest
import torch

from hydragrad.errors import Unsupported
from hydragrad.execution import execution_of, run_jobs


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_once(workers):
    offset = torch.tensor([10.0])
    results = dict(run_jobs(lambda job: float(offset) + job, [1, 2, 3], execution_of(workers=workers)))
    assert results == {0: 11.0, 1: 12.0, 2: 13.0}


def test_an_error_in_a_worker_is_raised():
    def work(job):
        raise ValueError(f"job {job}")

    with pytest.raises(ValueError, match="job"):
        list(run_jobs(work, [1, 2], execution_of(workers=2)))


def test_work_that_cannot_be_pickled_is_refused():
    lock = threading.Lock()
    with pytest.raises(Unsupported, match="workers=1"):
        list(run_jobs(lambda job: lock, [1, 2], execution_of(workers=2)))


def test_zero_workers_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        execution_of(workers=0)
