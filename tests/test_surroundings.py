"""Every function of the public face does the same wherever it is called from."""

import copy
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import hydragrad as hg
from hydragrad import torch_release
from hydragrad.errors import Unsupported
from hydragrad.surroundings import clean, in_clean_surroundings, users_default_device
from twins import SAMPLES, held_out, loss, made, mlp, order, record, sgd, vectors


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def without_gradients():
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(True)


DATA, QUERY, MODEL, ORDER = vectors(), hg.mean_loss(held_out()), made(mlp), order(SAMPLES)
"""Made here: what is made inside of surroundings is another thing."""

SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled(False)": without_gradients,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a device without data": lambda: torch.device("meta"),
    "a default device without data": lambda: default_device("meta"),
    "float64 as default": lambda: default_dtype(torch.float64),
    "bfloat16 as default": lambda: default_dtype(torch.bfloat16),
    "disabled hooks on saved tensors": lambda: torch.autograd.graph.disable_saved_tensors_hooks("none here"),
    "anomaly detection": torch.autograd.detect_anomaly,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def run(folder):
    return record(folder / "recorded")


@pytest.fixture(scope="module")
def scores(run):
    return hg.attribute(run, QUERY, labels=True)


def opened(run: hg.Recording) -> hg.Recording:
    return hg.Recording(run.path, run.model, loss, run.train_set)


def trained(path: Any) -> hg.Recording:
    with torch.inference_mode(False):
        model = copy.deepcopy(MODEL)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 4, "seed": len(path.name), "resume": path.exists()}
    return hg.train(model, loss, DATA, sgd(model), out=path, **options)


def of_saved_store(run: hg.Recording, folder: Any) -> Tensor:
    path = folder / "store"
    if not path.exists():
        hg.hypergradients(run, store=path)
    return hg.Store.open(path, run.model, loss).contributions(QUERY).values


def not_yet_there(folder: Any) -> Any:
    return folder / f"new-{len(list(folder.iterdir())):03}"


def as_array(value: Any) -> Any:
    return np.array(value.tolist() if isinstance(value, Tensor) else value)


def numbers_of(frame: Any) -> Any:
    return frame.select_dtypes("number").to_numpy()


ENTRIES: dict[str, Any] = {
    "Recording": lambda run, scores, folder: opened(run).final.parameters["0.weight"],
    "trained_model": lambda run, scores, folder: opened(run).trained_model()[0].weight.detach(),
    "attribute": lambda run, scores, folder: hg.attribute(opened(run), QUERY).values,
    "attribute, hessian": lambda run, scores, folder: hg.attribute(opened(run), QUERY, curvature="hessian").values,
    "attribute, ggn": lambda run, scores, folder: hg.attribute(opened(run), QUERY, curvature="ggn").values,
    "influence": lambda run, scores, folder: hg.influence(opened(run), QUERY, checkpoints=2).values,
    "hypergradients": lambda run, scores, folder: hg.hypergradients(opened(run)).contributions(QUERY).values,
    "Store": lambda run, scores, folder: of_saved_store(run, folder),
    "counterfactual": lambda run, scores, folder: hg.counterfactual(opened(run), [[1]], QUERY, keep=False).values,
    "verify": lambda run, scores, folder: hg.verify(opened(run), scores, groups=3).checks[0].actual,
    "smoothness": lambda run, scores, folder: hg.smoothness(opened(run)).rounding_growth,
    "approximation_error": lambda run, scores, folder: numbers_of(
        hg.approximation_error(opened(run), query=QUERY, samples=[0, 1]).to_frame()
    ),
    "suspects": lambda run, scores, folder: numbers_of(hg.suspects(opened(run), scores)),
    "report": lambda run, scores, folder: hg.report(opened(run), scores, folder / "report.html").exists(),
    "ensemble": lambda run, scores, folder: (
        hg.ensemble(lambda seed, path: trained(path), QUERY, seeds=2, out=folder / "ensemble").values
    ),
    "train": lambda run, scores, folder: trained(folder / f"new-{len(list(folder.iterdir())):03}").final.parameters[
        "0.weight"
    ],
}


@pytest.fixture(scope="module")
def expected(run, scores, folder):
    return {name: as_array(entry(run, scores, folder)) for name, entry in ENTRIES.items()}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_gives_what_it_gives_outside(name, surroundings, run, scores, folder, expected):
    with SURROUNDINGS[surroundings]():
        before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype())
        value = ENTRIES[name](run, scores, folder)
        assert before == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype())
    assert not (isinstance(value, Tensor) and value.is_inference())
    np.testing.assert_array_equal(as_array(value), expected[name])


@pytest.mark.parametrize("surroundings", ["autocast", "a device without data", "float64 as default"])
def test_recorder_and_tracker_do_their_own_work_outside_of_what_surrounds_them(tmp_path, surroundings):
    """The loop itself makes its tensors where it wants to, and switches autocast off around its step."""
    expected = record(tmp_path / "expected").final.parameters
    model = made(mlp)
    optimizer = sgd(model)
    x, y = DATA.tensors
    with SURROUNDINGS[surroundings]():
        tracker = hg.Tracker(model, optimizer, loss, DATA, seed=0)
        with hg.Recorder(tmp_path / "run", model, optimizer, loss, DATA, seed=0) as recorder, tracker:
            for indices in ORDER:
                batch = [x[indices], y[indices]]
                with recorder.step(indices), tracker.step(indices, batch), torch.autocast("cpu", enabled=False):
                    optimizer.zero_grad()
                    loss(model, batch).mean().backward()
                    optimizer.step()
        values = tracker.contributions(QUERY).values
    run = hg.Recording(tmp_path / "run", made(mlp), loss, vectors())
    assert all(torch.equal(value, expected[name]) for name, value in run.final.parameters.items())
    torch.testing.assert_close(values, hg.hypergradients(run).contributions(QUERY).values)


class MakesConstants(torch.nn.Module):
    """Makes a tensor of torch's default dtype in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * torch.tensor([0.1, 0.2, 0.3])


def test_the_default_dtype_is_that_of_the_recording(tmp_path):
    """0.1 in float32 is another number than in float64."""
    run = record(tmp_path, MakesConstants)
    values = hg.attribute(run, QUERY, curvature="hessian").values
    with default_dtype(torch.float64):
        again = hg.Recording(tmp_path, made(MakesConstants), loss, vectors())
        torch.testing.assert_close(hg.attribute(again, QUERY, curvature="hessian").values, values, rtol=0, atol=0)


def test_a_default_device_is_the_users_in_the_users_code_only():
    @in_clean_surroundings
    def ours() -> tuple[Any, Any]:
        with users_default_device():
            theirs = torch_release.default_device()
        return torch_release.default_device(), theirs

    cpu, first = torch.device("cpu"), torch.device("cpu", 0)
    with first:
        assert ours() == (cpu, first)
    with torch.device("meta"):
        assert ours() == (cpu, cpu)
    assert ours() == (cpu, cpu)


@pytest.mark.parametrize("surround", [torch.func.grad, torch.func.vmap])
def test_a_call_inside_a_transform_is_refused(surround, run):
    def function(x: Tensor) -> Tensor:
        hg.attribute(run, QUERY)
        return x.sum()

    with pytest.raises(Unsupported, match=r"made inside a torch\.func transform \((grad|vmap)\)\. Move it out"):
        surround(function)(torch.ones(2))


def test_a_call_inside_a_dual_level_is_refused(run):
    with torch.autograd.forward_ad.dual_level(), pytest.raises(Unsupported, match=r"forward_ad\.dual_level\(\)"):
        hg.attribute(run, QUERY)


def test_a_call_inside_a_mode_without_data_is_refused(run):
    with FakeTensorMode(), pytest.raises(Unsupported, match="made inside FakeTensorMode"):
        hg.attribute(run, QUERY)


def test_surroundings_come_back_after_an_error():
    with torch.no_grad(), pytest.raises(ZeroDivisionError), clean(torch.float64):
        assert torch.is_grad_enabled() and torch.get_default_dtype() is torch.float64
        raise ZeroDivisionError
    assert torch.is_grad_enabled() and torch.get_default_dtype() is torch.float32
