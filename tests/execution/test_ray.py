"""Jobs on a Ray cluster of this machine: the same numbers, lost workers, copied run directories."""

import os
import signal
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import FrameworkMissing, Unsupported
from hydragrad.execution import execution_of, folders, ray_address, ray_pool, run_jobs

ray = pytest.importorskip("ray", reason="pip install 'hydragrad[ray]' for the tests of Ray")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Ray says of itself
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        yield
        ray.shutdown()


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(30, 3, dtype=torch.float64, generator=generator)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    data = TensorDataset(points, (points.sum(1) > 0).long())
    return hg.train(model, loss, data, optimizer, epochs=2, batch_size=8, out=tmp_path_factory.mktemp("ray") / "run")


@pytest.fixture(scope="module")
def query():
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(9, 3, dtype=torch.float64, generator=generator)
    return hg.mean_loss(TensorDataset(points, torch.randint(2, (9,), generator=generator)))


def test_the_numbers_are_those_of_this_process(run, query):
    for options in ({}, {"curvature": "ggn", "replays": 2}):
        here, there = (hg.attribute(run, query, executor=executor, **options) for executor in ("here", "ray"))
        assert torch.equal(here.values, there.values)
        assert here.evidence == there.evidence
    groups = [[0, 3], [5]]
    here, there = (hg.counterfactual(run, groups, query, executor=one, keep=False) for one in ("here", "ray"))
    assert torch.equal(here.values, there.values)


def test_a_run_directory_that_machines_do_not_see_is_copied_to_them(run, query, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    expected = hg.attribute(run, query, stretches=2)
    scores = hg.attribute(run, query, stretches=2, executor=hg.RayExecutor(ship=True))
    assert torch.equal(scores.values, expected.values) and torch.equal(scores.over_time, expected.over_time)
    # A folder that is another one for the workers: it is seen to differ, and copied without being asked to.
    monkeypatch.setattr(folders.Listing, "__reduce__", lambda self: (_as_another, (self.folder, self.sizes)))
    assert torch.equal(hg.attribute(run, query, executor="ray").values, expected.values)
    with pytest.raises(Unsupported, match="must be the same folder for every worker"):
        hg.attribute(run, query, stretches=1, executor=hg.RayExecutor(ship=False))


def _as_another(folder, sizes):
    return folders.Listing(folder=folder, sizes=sizes, digest="of other files")


def test_the_job_of_a_killed_worker_is_done_again(tmp_path):
    def work(job):
        if job == 1 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 10 * job

    assert dict(run_jobs(work, range(4), execution_of("ray"))) == {job: 10 * job for job in range(4)}
    assert (tmp_path / "killed").exists()


def test_an_error_in_a_worker_is_raised_as_it_was():
    def work(job):
        raise hg.errors.QueryError(f"job {job}")

    with pytest.raises(hg.errors.QueryError, match=r"^job 1$"):
        list(run_jobs(work, [1], execution_of("ray")))


def test_an_interrupted_call_cancels_its_jobs(tmp_path):
    def work(job):
        (tmp_path / str(job)).touch()
        threading.Event().wait(0.05 if job == 0 else 600)
        return job

    results = run_jobs(work, range(9), execution_of("ray"))
    assert next(results) == (0, 0)
    results.close()
    assert dict(run_jobs(str, [7, 8], execution_of("ray"))) == {0: "7", 1: "8"}, "the machine is free again"


def test_resources_that_no_machine_has_are_refused():
    with pytest.raises(Unsupported, match=r"A job needs CPU 1, GPU 9 of one machine"):
        list(run_jobs(str, [1], execution_of(hg.RayExecutor(resources={"CPU": 1, "GPU": 9}))))


def test_resources_go_by_the_names_that_ray_has_for_them():
    assert ray_pool._options({"CPU": 2, "GPU": 0.5, "memory": 1e9, "fast": 1}) == {
        "num_cpus": 2,
        "num_gpus": 0.5,
        "memory": 1e9,
        "resources": {"fast": 1},
    }
    assert ray_pool._options({"GPU": 1}) == {"num_gpus": 1}


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    def refused(**options):
        raise ConnectionError(f"nobody at {options['address']}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setattr(ray_address, "answers", lambda address: True)
    with pytest.raises(Unsupported, match=r"'10\.0\.0\.1:1' can't be used: nobody at 10\.0\.0\.1:1\. Start it"):
        list(run_jobs(str, [1], execution_of(hg.RayExecutor(address="10.0.0.1:1"))))


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(FrameworkMissing, match="pip install 'hydragrad\\[ray\\]'"):
        list(run_jobs(str, [1], execution_of("ray")))
