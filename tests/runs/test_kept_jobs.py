"""Jobs whose results are files: resumed, divided into slices, done again where damaged."""

import pytest
import torch

from hydragrad.errors import NotWritable, Unfinished
from hydragrad.execution import execution_of
from hydragrad.execution.claims import Claims
from hydragrad.runs.kept import Kept
from hydragrad.runs.kept_jobs import kept_jobs

JOBS = [3, 1, 4, 1, 5]


@pytest.fixture
def files(tmp_path):
    return [Kept(tmp_path / "results", "", [place, job]) for place, job in enumerate(JOBS)]


class Work:
    def __init__(self):
        self.done = []

    def __call__(self, job):
        self.done.append(job)
        return {"double": torch.tensor(2 * job)}


def results(work, files, part=None, **options):
    done = dict(kept_jobs(work, JOBS, files, execution_of(part=part), "doubles", **options))
    return [done[place]["double"].item() for place in range(len(JOBS))]


def test_what_is_saved_is_read_and_the_rest_is_done(files):
    begun, ended = [], []
    work = Work()
    files[1].write({"double": torch.tensor(2)})
    options = {"first": lambda: begun.append(len(work.done)), "ended": lambda: ended.append(1)}
    assert results(work, files, **options) == [6, 2, 8, 2, 10]
    assert work.done == [3, 4, 1, 5] and begun == [0] and len(ended) == 4
    assert results(work, files, **options) == [6, 2, 8, 2, 10]
    assert len(work.done) == 4 and len(begun) == 1


def test_a_damaged_result_is_made_again(files):
    for part in (None, "2/2"):
        results(Work(), files, part)
        files[2].path.write_bytes(files[2].path.read_bytes()[:40])
        work = Work()
        assert results(work, files, part) == [6, 2, 8, 2, 10]
        assert work.done == [4]


def test_a_slice_does_its_own_jobs_first_and_then_what_nobody_works_on(files):
    work = Work()
    with Claims(files[0].path.parent) as others:
        assert others.take(files[0].path.stem)
        with pytest.raises(Unfinished, match=r"^Part 2/2 is done; 1 of 5 doubles are still missing"):
            results(work, files, "2/2")
        assert work.done == [1, 1, 4, 5]
    assert results(work, files, "1/2") == [6, 2, 8, 2, 10]
    assert work.done == [1, 1, 4, 5, 3]


def test_a_job_that_another_process_has_ended_meanwhile_is_not_done_again(files):
    class Overtaken(Work):
        def __call__(self, job):
            files[4].write({"double": torch.tensor(10)})
            return super().__call__(job)

    work = Overtaken()
    assert results(work, files, "1/1") == [6, 2, 8, 2, 10]
    assert work.done == [3, 1, 4, 1]


def test_a_whole_call_does_not_wait_for_slices(files):
    with Claims(files[0].path.parent) as others:
        assert others.take(files[0].path.stem)
        assert results(Work(), files) == [6, 2, 8, 2, 10]


def test_a_slice_that_cannot_save_is_refused(files, monkeypatch):
    monkeypatch.setattr(Kept, "write", lambda *_: False)
    assert results(Work(), files) == [6, 2, 8, 2, 10]
    with pytest.raises(NotWritable, match="slices meet there"):
        results(Work(), files, "1/2")
