"""What a training would cost, and how it is shown."""

import json

import psutil
import pytest

import hydragrad as hg
from recording.toys import build, loss, samples, sgd


@pytest.fixture(scope="module")
def timed():
    model = build()
    return hg.check(model, sgd(model), loss, samples(), batch_size=5, epochs=40)


def test_every_mode_of_the_run_has_a_cost_and_the_whole_training_is_a_multiple(timed):
    assert timed.steps == 200 and timed.step_seconds > 0
    for mode in timed.modes:
        if mode.name == "influence":
            assert mode.ratio is None and mode.seconds > 0
        else:
            assert mode.ratio >= 0
            assert mode.seconds == pytest.approx(mode.ratio * timed.step_seconds * timed.steps)
        assert mode.memory > 0


def test_the_forecast_of_the_run_directory_is_near_that_of_a_training(timed, tmp_path):
    model = build()
    hg.train(model, loss, samples(), sgd(model), epochs=40, batch_size=5, out=tmp_path)
    real = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file() and file.name != "epochs.jsonl")
    assert timed.mode("record").disk == pytest.approx(real, rel=0.25)


def test_the_forecast_of_a_store_is_its_size(timed, tmp_path):
    model = build()
    run = hg.train(model, loss, samples(), sgd(model), epochs=1, batch_size=5, out=tmp_path / "run")
    hg.hypergradients(run, store=tmp_path / "store")
    assert timed.mode("hypergradients").disk == pytest.approx((tmp_path / "store" / "rows.npy").stat().st_size, abs=200)


def test_rows_that_do_not_fit_are_told_before_they_are_made(monkeypatch):
    model = build()
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=4000))
    result = hg.check(model, sgd(model), loss, samples(), timed=False, batch_size=4)
    messages = [message for names, message in result.changes() if "Tracker" in names]
    assert any("samples fit. Give store=" in message for message in messages), result


def test_the_table_is_printed_and_shown_in_notebooks_and_is_a_frame(timed):
    text = repr(timed)
    assert text.splitlines()[0] == "This setup can be recorded, and every mode works."
    assert max(map(len, text.splitlines())) <= 118
    for name in ("model", "two steps", "hessian", "Tracker"):
        assert f"\n{name} " in text and f"<td>{name}</td>" in timed._repr_html_()
    frame = timed.to_frame()
    assert set(frame["table"]) == {"part", "mode"}
    assert frame.set_index("name").loc["hessian", "route"] == "sweep"


def test_the_figures_are_flat_json(timed):
    figures = json.loads(json.dumps(timed.to_dict()))
    assert figures["recordable"] is True and figures["mode.hessian.route"] == "sweep"
    assert not any(isinstance(value, dict | list) for value in figures.values())


def test_a_part_or_mode_that_was_not_looked_at_is_unknown():
    result = hg.check("model", None, loss, samples(), timed=False)
    assert result.mode("hessian").works is None and result.part("two steps").ok is None
    assert "costs: nothing was measured" in result.costs_of


def test_a_list_of_one_optimizer_is_that_optimizer():
    model = build()
    assert hg.check(model, [sgd(model)], loss, samples(), timed=False).recordable
