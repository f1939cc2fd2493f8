import os
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hydragrad.errors import QueryError, Unsupported, WorkerLost
from hydragrad.execution import RayExecutor, execution_of, run_jobs, shipping
from hydragrad.execution import processes as processes_of_this_machine


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_once(workers):
    offset = torch.tensor([10.0])
    results = dict(run_jobs(lambda job: float(offset) + job, [1, 2, 3], execution_of(workers=workers)))
    assert results == {0: 11.0, 1: 12.0, 2: 13.0}


def test_any_executor_does_the_jobs(processes):
    offset = torch.tensor([10.0])
    results = dict(run_jobs(lambda job: float(offset) + job, range(9), execution_of(processes)))
    assert results == {job: 10.0 + job for job in range(9)}


def test_no_jobs_need_no_workers(processes):
    assert list(run_jobs(str, [], execution_of("processes", 2))) == []


class OwnExecutor:
    """Submits to processes, and gives what is no Future, as submitit does."""

    def __init__(self, processes):
        self._processes = processes

    def submit(self, function, *args):
        return OwnJob(self._processes.submit(function, *args))


class OwnJob:
    def __init__(self, future):
        self.done, self.result, self.cancel = future.done, future.result, future.cancel


def test_an_executor_may_give_jobs_of_its_own(processes):
    assert dict(run_jobs(lambda job: job + 1, [1, 2], execution_of(OwnExecutor(processes)))) == {0: 2, 1: 3}


def test_jobs_are_taken_when_there_is_room(processes):
    taken = []

    def jobs():
        for job in range(20):
            taken.append(job)
            yield job

    results = run_jobs(str, jobs(), execution_of(processes, workers=3))
    next(results)
    assert len(taken) <= 1 + 3 + 1
    assert len(list(results)) == 19


def test_workers_have_one_thread_and_show_no_progress(processes):
    def work(job):
        from hydragrad.progress import _shown

        return torch.get_num_threads(), _shown.get()

    assert dict(run_jobs(work, [1, 2], execution_of(processes))) == {0: (1, False), 1: (1, False)}


def test_warnings_of_workers_are_passed_on_once(processes):
    def work(job):
        warnings.warn("look at this", UserWarning, stacklevel=1)
        return job

    with pytest.warns(UserWarning, match="look at this") as caught:
        list(run_jobs(work, range(4), execution_of(processes)))
    assert len(caught) == 1


def test_an_error_in_a_worker_is_raised(processes):
    def work(job):
        raise ValueError(f"job {job}")

    with pytest.raises(ValueError, match="job"):
        list(run_jobs(work, [1, 2], execution_of(processes, 2)))


def test_the_job_of_a_killed_process_is_done_again(tmp_path):
    def work(job):
        if job == 1 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 10 * job

    assert dict(run_jobs(work, range(4), execution_of(workers=2))) == {job: 10 * job for job in range(4)}


def test_a_job_that_always_kills_its_process_ends_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr(processes_of_this_machine, "LOSSES", 1)

    def work(job):
        (tmp_path / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLost, match="Every job must come to its end"):
        list(run_jobs(work, [1], execution_of("processes", 1)))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_broken_executor_is_named():
    from concurrent.futures import BrokenExecutor, Future

    class Broken:
        def submit(self, function, *args):
            future = Future()
            future.set_exception(BrokenExecutor("a process died"))
            return future

    with pytest.raises(WorkerLost, match="a process died"):
        list(run_jobs(str, [1], execution_of(Broken())))


def test_work_that_cannot_be_pickled_is_refused():
    lock = threading.Lock()
    with pytest.raises(Unsupported, match="workers=1"):
        list(run_jobs(lambda job: lock, [1, 2], execution_of(workers=2)))


def test_threads_of_this_process_are_refused():
    with ThreadPoolExecutor(2) as pool, pytest.raises(Unsupported, match="threads of this process"):
        list(run_jobs(str, [1, 2], execution_of(pool)))


def test_a_worker_with_other_versions_is_refused(processes, monkeypatch):
    monkeypatch.setattr(shipping, "_versions", lambda: {"hydragrad": "0.0.1", "torch": "1.0"})
    with pytest.raises(Unsupported, match="must have the versions that this process has"):
        list(run_jobs(str, [1], execution_of(processes)))


def test_impossible_executors_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        execution_of(workers=0)
    with pytest.raises(QueryError, match="executor='here' is this process"):
        execution_of("here", 2)
    for wrong in ("dask", 3):
        with pytest.raises(QueryError, match="executor must be one of here, processes, ray"):
            execution_of(wrong)


def test_keywords_say_the_same_as_the_execution():
    for execution in (
        execution_of(),
        execution_of(workers=3, part=(2, 5)),
        execution_of("processes", 1),
        execution_of(RayExecutor(address="there"), 4, "1/2"),
    ):
        assert execution_of(**execution.keywords) == execution
    assert execution_of("processes").workers >= 1
    assert execution_of("ray").executor == RayExecutor()
