"""An interrupted attribution is resumed where it stopped, to the same numbers."""

from pathlib import Path

import pytest
import torch

import hydragrad as hg
from cases import STEPS, Case, record
from hydragrad.attribution.partial import Partial
from hydragrad.derivatives import CurvatureProducts
from hydragrad.replay.changed_run import Change, ChangedRun
from hydragrad.replay.trajectory import Trajectory

CASE = Case("mlp", "all")
METHODS = {
    "hooks": {"route": "hooks"},
    "jvp": {"route": "jvp"},
    "labels": {"labels": True},
    "hessian": {"curvature": "hessian"},
    "ggn": {"curvature": "ggn", "damping": 0.1, "labels": True},
}


class Interrupt:
    """Counts calls of a method and interrupts one of them."""

    def __init__(self, owner: type, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.at = 0, -1
        original = getattr(owner, method)

        def counted(*args, **kwargs):
            self.calls += 1
            if self.calls == self.at:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, method, counted)

    def start(self, at: int = -1) -> None:
        self.calls, self.at = 0, at


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> hg.Recording:
    return record(CASE, tmp_path_factory.mktemp("partial") / "run", checkpoint_every=4)


@pytest.fixture
def steps(monkeypatch, run) -> Interrupt:
    assert run.final is not None and run.initial is not None  # read once, so that they are not counted
    return Interrupt(Trajectory, "advance", monkeypatch)


def left_over(run: hg.Recording) -> list[Path]:
    return sorted((run.path / "scores").glob("*"))


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_attribution_is_resumed_where_it_stopped(method, run, steps):
    query = [hg.mean_loss(CASE.held_out), hg.sample_losses(CASE.held_out, [2])]
    steps.start()
    expected = hg.attribute(run, query, **METHODS[method])
    whole = steps.calls
    assert left_over(run) == []

    steps.start(at=whole - STEPS + 11)  # two segments of four are done, the third is at work
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, query, **METHODS[method])
    assert [path.name[:8] for path in left_over(run)] == ["partial-"]

    steps.start()
    again = hg.attribute(run, query, **METHODS[method])
    assert steps.calls == whole - 8
    assert torch.equal(again.values, expected.values)
    if expected.label_contributions is not None:
        assert torch.equal(again.label_contributions, expected.label_contributions)
    assert left_over(run) == []


def test_a_sweep_interrupted_on_the_way_back_is_resumed(run, monkeypatch):
    query = hg.mean_loss(CASE.held_out)
    products = Interrupt(CurvatureProducts, "__call__", monkeypatch)
    products.start()
    expected, whole = hg.attribute(run, query, curvature="hessian"), products.calls
    products.start(at=whole - STEPS + 7)
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, query, curvature="hessian")
    products.start()
    again = hg.attribute(run, query, curvature="hessian")
    assert products.calls == whole - 4
    assert torch.equal(again.values, expected.values)
    assert left_over(run) == []


def test_an_attribution_interrupted_twice_is_resumed(run, steps):
    query = hg.mean_loss(CASE.held_out)
    expected = hg.attribute(run, query, route="jvp")
    for at in (6, 6):
        steps.start(at=at)
        with pytest.raises(KeyboardInterrupt):
            hg.attribute(run, query, route="jvp")
    steps.start()
    assert torch.equal(hg.attribute(run, query, route="jvp").values, expected.values)
    assert steps.calls == STEPS - 8


def test_another_query_starts_from_the_beginning(run, steps):
    query, other = hg.mean_loss(CASE.held_out), hg.sample_losses(CASE.held_out, [0])
    expected = hg.attribute(run, other, curvature="hessian")
    steps.start(at=10)
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, query, curvature="hessian")
    steps.start()
    assert torch.equal(hg.attribute(run, other, curvature="hessian").values, expected.values)
    assert steps.calls == STEPS
    assert len(left_over(run)) == 1
    hg.attribute(run, query, curvature="hessian")
    assert left_over(run) == []


def test_a_run_with_other_weights_starts_from_the_beginning(run, steps):
    """Even where the query's gradient is the same everywhere, so that only the run differs."""
    total = hg.query("sum of weights", lambda model: sum(parameter.sum() for parameter in model.parameters()))
    changed = ChangedRun(run, Change(weights={0: 0.0, 3: 0.0}))
    assert changed.final is not None  # trained once, so that its steps are not counted
    expected = hg.attribute(changed, total, curvature="hessian")
    steps.start(at=10)
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, total, curvature="hessian")
    assert len(left_over(run)) == 1
    assert torch.equal(hg.attribute(changed, total, curvature="hessian").values, expected.values)
    steps.start()
    hg.attribute(run, total, curvature="hessian")
    assert left_over(run) == []


def test_a_damaged_partial_file_is_ignored(run, steps):
    query = hg.mean_loss(CASE.held_out)
    expected = hg.attribute(run, query, curvature="hessian")
    steps.start(at=10)
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, query, curvature="hessian")
    (partial,) = left_over(run)
    partial.write_bytes(partial.read_bytes()[:50])
    steps.start()
    assert torch.equal(hg.attribute(run, query, curvature="hessian").values, expected.values)
    assert steps.calls == STEPS
    assert left_over(run) == []


def test_a_partial_file_of_another_form_is_ignored(run, steps, monkeypatch):
    """Earlier versions saved the step that a sweep had come back to, in place of the segments that were done."""
    query = hg.mean_loss(CASE.held_out)
    expected = hg.attribute(run, query, curvature="hessian")
    written = Partial.write
    monkeypatch.setattr(
        Partial,
        "write",
        lambda self, tensors: written(self, {name: value for name, value in tensors.items() if name != "done"}),
    )
    steps.start(at=10)
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, query, curvature="hessian")
    assert len(left_over(run)) == 1
    steps.start()
    assert torch.equal(hg.attribute(run, query, curvature="hessian").values, expected.values)
    assert steps.calls == STEPS
    assert left_over(run) == []
