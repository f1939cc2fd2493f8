"""The study of AdamW: its truth is real training, its variants of smoothing are what they say, and it resumes."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import AdamW
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

import hydragrad as hg
from hydragrad.errors import Unsupported
from studies.__main__ import app
from studies.adam import ANOTHER_SEED, CEILINGS, HALVES, NOT_SUBTRACTED, ROUNDED, ROWS_FILE, reproduce_adam
from studies.adam_estimators import ESTIMATORS
from studies.adam_runs import DATA, ONE, SUBJECTS, AdamRun, Started, Subject


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def points(_):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, dtype=torch.float64, generator=generator)
    y = (x.sum(1) > 0).long()
    return TensorDataset(x[:40], y[:40]), TensorDataset(x[40:], y[40:])


def started(hidden, seed, _steps, _data):
    torch.manual_seed(seed)
    layers = [nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)] if hidden else [nn.Linear(3, 2, bias=False)]
    model = nn.Sequential(*layers).double()
    return Started(model, AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.95)))


def subject(removed, *, steps=5, hidden=True):
    return Subject(
        name="tiny",
        data=points,
        start=partial(started, hidden),
        loss=loss,
        steps=steps,
        batch_size=8,
        removed=removed,
        held_out=20,
        chunks=(range(2), range(2, 5)),
    )


def test_leaving_one_out_of_its_batch_is_plain_training_with_the_mean_over_the_rest(tmp_path):
    run = AdamRun(tmp_path, subject((ONE,)), 0, removals=9, data_dir=None)
    actual = run.actual(ONE, 3)
    for column, (sample,) in enumerate(run.groups(ONE)[:3]):
        model, optimizer, _ = started(True, 0, 5, None)
        for record in run.run.steps:
            batch = [i for i in record.indices if i != sample]
            optimizer.zero_grad()
            loss(model, run.train_set[batch]).mean().backward()
            optimizer.step()
        with torch.no_grad():
            after = loss(model, run.tests.tensors)
        before = run.test_loss
        assert actual[0, column] == pytest.approx(float(after.mean()) - before, abs=1e-12)
        assert actual[0, column] != 0
    rows = reproduce_adam_of(tmp_path, subject((ONE,)), kinds=["exact smoothing 0", CEILINGS])
    assert [row.estimator for row in rows] == [
        *("exact smoothing 0", "exact smoothing 0" + NOT_SUBTRACTED),
        *(ROUNDED, ANOTHER_SEED),
    ]
    assert rows[0].single > 0.9 and rows[0].groups == 40 and rows[0].singles == 2
    assert rows[2].mean > 0.99 and rows[2].groups == 13


def reproduce_adam_of(out, one, **options):
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SUBJECTS, "A", (one,))
        return reproduce_adam(out, protocol="A", **options)


def test_groups_halves_and_the_data_have_their_rows_and_more_chunks_resume(tmp_path, monkeypatch):
    one = subject(("10 %", DATA), steps=10)
    rows = reproduce_adam_of(tmp_path, one, kinds=["exact smoothing 0.01", CEILINGS], removals=9)
    assert [(row.removed, row.estimator, row.groups) for row in rows] == [
        *(("10 %", "exact smoothing 0.01", 9), (DATA, "exact smoothing 0.01", 9)),
        *(("10 %", ROUNDED, 3), ("10 %", HALVES, 3), ("10 %", ANOTHER_SEED, 3), (DATA, ANOTHER_SEED, 4)),
    ]
    more = reproduce_adam_of(tmp_path, one, kinds=["exact smoothing 0.01"], removals=9, chunks=9)
    assert {row.singles for row in more} == {5} and more[0].mean == rows[0].mean
    monkeypatch.setattr("studies.adam._row", lambda *_: pytest.fail("measured again"))
    again = reproduce_adam_of(tmp_path, one, kinds=["exact smoothing 0.01", CEILINGS], removals=9)
    assert again == rows and (tmp_path / ROWS_FILE).exists()


def test_smoothing_per_tensor_of_a_single_tensor_is_smoothing(tmp_path):
    run = AdamRun(tmp_path, subject((ONE,), hidden=False), 0, removals=9, data_dir=None)
    of_all, of_each = (ESTIMATORS[f"exact {kind} 0.1"](run, run.queries(0)) for kind in ("smoothing", "per tensor"))
    assert torch.allclose(of_all, of_each, rtol=1e-5) and of_all.abs().max() > 0
    several = AdamRun(tmp_path / "several", subject((ONE,)), 0, removals=9, data_dir=None)
    of_all, of_each = (
        ESTIMATORS[f"exact {kind} 0.1"](several, several.queries(0)) for kind in ("smoothing", "per tensor")
    )
    assert (of_all - of_each).norm() > 1e-3 * of_all.norm()


def test_trak_without_its_library_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dattri", None)
    run = AdamRun(tmp_path, subject((ONE,)), 0, removals=9, data_dir=None)
    with pytest.raises(Unsupported, match=r"TRAK needs dattri, which is not installed.*leave trak out of --estimators"):
        ESTIMATORS["TRAK"](run, run.queries(0))


def test_protocols_are_as_published():
    sizes = {}
    for protocol in ("A", "T"):
        for one in SUBJECTS[protocol]:
            model, optimizer, _ = one.start(0, one.steps, None)
            sizes[one.name] = sum(parameter.numel() for parameter in model.parameters())
            assert isinstance(optimizer, AdamW)
    assert sizes["mlp-relu 1e-5"] == 784 * 16 + 16 + 16 * 16 + 16 + 160 + 10
    assert sizes["lenet5"] == 61_706
    assert SUBJECTS["D"][0].steps == 400 and [i for chunk in SUBJECTS["D"][0].chunks for i in chunk] == list(range(50))


def test_mistakes_on_the_command_line_are_named():
    for words, message in (
        (["--protocol", "X"], "--protocol"),
        (["--protocol", "A", "--seeds", "one"], "--seeds takes whole numbers"),
        (["--protocol", "A", "--estimators", "exact"], "--estimators takes some of smoothing"),
    ):
        result = CliRunner().invoke(app, ["adam", *words, "--quiet"])
        assert result.exit_code != 0 and message in str(result.exception) + result.output


def test_contributions_are_those_of_attribute(tmp_path):
    run = AdamRun(tmp_path, subject((ONE,)), 0, removals=9, data_dir=None)
    values = ESTIMATORS["ggn smoothing 0"](run, run.queries(1))
    expected = hg.attribute(run.run, hg.sample_losses(run.tests, range(2, 5)), curvature="ggn", smoothing=0)
    assert np.array_equal(values, expected.values)
