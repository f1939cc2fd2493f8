"""Forecasts of time, memory and disk."""

from hydragrad.cli import forecast
from hydragrad.experiments.from_settings import build_experiment
from hydragrad.experiments.settings import Settings
from hydragrad.experiments.training import plan_of


def test_the_forecast_counts_held_out_samples(monkeypatch):
    monkeypatch.setattr(forecast, "_seconds_a_step", lambda _: 0.0)
    monkeypatch.setattr(
        forecast, "seconds_of_evaluation", lambda experiment, _, name: float(len(experiment.data_set(name)))
    )
    settings = Settings(data="digits", model="lenet5", train_size=40, epochs=50, validation_size=7)
    experiment = build_experiment(settings, data_dir=None)
    assert forecast.training_seconds(experiment, plan_of(experiment)) == 50 * 7 + len(experiment.data_set("test"))
