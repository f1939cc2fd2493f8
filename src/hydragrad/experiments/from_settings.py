"""The experiment of settings, or of a run directory that saved its settings."""

from dataclasses import replace
from pathlib import Path

import torch

from hydragrad.errors import RecordingMismatch
from hydragrad.experiments.by_name import experiment_by_name
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.own_function import experiment_of_function
from hydragrad.experiments.settings import Settings
from hydragrad.replay import Recording
from hydragrad.runs.manifest import read_manifest


def build_experiment(settings: Settings, *, data_dir: Path | None, run: Path | None = None) -> Experiment:
    """Build the experiment of these settings; labels saved in `run`, if any, are used as they are."""
    if settings.source:
        return experiment_of_function(settings)
    return experiment_by_name(settings, data_dir=data_dir, run=run)


def open_run(run: Path, *, data_dir: Path | None) -> tuple[Experiment, Recording]:
    """Reopen a run that the command line trained; on the CPU where it was trained on a GPU that is not there.

    Raises:
        RunNotFound: There is none.
        RecordingMismatch: It was recorded from Python, so the command line can't build its model.
    """
    about = read_manifest(run).about
    if "settings" not in about:
        raise RecordingMismatch(
            f"{run} was recorded from Python, so the command line does not know its model and data. Open it with "
            f"hg.Recording(path, model, loss, train_set); or train with `hydragrad train --from module:function`, or "
            f"record with about={{'settings': {{'source': 'module:function'}}}}."
        )
    settings = Settings.read(about["settings"])
    if settings.device == "cuda" and not torch.cuda.is_available():
        settings = replace(settings, device="cpu")
    experiment = build_experiment(settings, data_dir=data_dir, run=run)
    model = experiment.start(settings.seed).model
    return experiment, Recording(run, model, experiment.loss, experiment.train_set)
