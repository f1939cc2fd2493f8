"""The experiment of settings, or of a run directory that saved its settings."""

from dataclasses import replace
from pathlib import Path

import torch

from hydragrad.errors import RecordingMismatch
from hydragrad.experiments.by_name import experiment_by_name
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.own_function import experiment_of_function, tokenizer_named
from hydragrad.experiments.settings import Settings
from hydragrad.replay import Recording
from hydragrad.reports.tokenized import texts_by
from hydragrad.runs.manifest import read_manifest


def build_experiment(settings: Settings, *, data_dir: Path | None, run: Path | None = None) -> Experiment:
    """Build the experiment of these settings; labels saved in `run`, if any, are used as they are."""
    if settings.source:
        return experiment_of_function(settings)
    return experiment_by_name(settings, data_dir=data_dir, run=run)


def open_run(run: Path, *, data_dir: Path | None, tokenizer: str | None = None) -> tuple[Experiment, Recording]:
    """Reopen a run that the command line trained; on the CPU where it was trained on a GPU that is not there.

    Args:
        run: Its directory.
        data_dir: Folder with the data sets' files.
        tokenizer: `module:name` of what decodes tokens; the one that the run was trained with if None.

    Raises:
        UnknownName: There is no such tokenizer.
        PresentationError: It decodes nothing.
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
    recording = Recording(run, model, experiment.loss, experiment.train_set)
    named = tokenizer or settings.tokenizer
    if named is not None:
        texts = texts_by(recording, tokenizer_named(named))
        experiment = replace(experiment, render=texts.text, pieces=texts.pieces)
    return experiment, recording
