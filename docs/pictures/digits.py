"""Wrong labels of digits: the suspects, their contributions, and how soon they are found."""

from pathlib import Path

from hydragrad.cleaning import detection_curve, suspects
from hydragrad.experiments.from_settings import build_experiment
from hydragrad.experiments.saved_scores import saved_or_computed
from hydragrad.experiments.settings import Settings
from hydragrad.experiments.training import record
from hydragrad.figures import contribution_histogram, found_curve, picture_grid
from hydragrad.scores import Method

SETTINGS = Settings(data="digits", model="lenet5", noise=0.4, epochs=30)
SHOWN, COLUMNS = 12, 6


def make(pictures: Path, runs: Path) -> list[Path]:
    """Train, attribute, draw."""
    experiment = build_experiment(SETTINGS, data_dir=None, run=runs if runs.exists() else None)
    run = record(experiment, runs, resume=True)
    scores = saved_or_computed(experiment, run, "validation", Method())
    ranked = suspects(run, scores, held_out=experiment.query("validation"))
    assert experiment.render is not None
    worst = ranked.head(SHOWN)
    captions = [f"sample {row.sample}\n{row.given_label} → {row.suggested_label}" for row in worst.itertuples()]
    inspected, found = detection_curve(ranked)
    images = [experiment.render(experiment.train_set[i]) for i in worst["sample"]]
    figures = {
        "suspects.png": picture_grid(images, captions, COLUMNS),
        "contributions.png": contribution_histogram(
            ranked["contribution"], marked=ranked["flipped"], marked_name="wrong labels", query="validation loss"
        ),
        "found.png": found_curve(found, inspected),
    }
    for name, figure in figures.items():
        figure.savefig(pictures / name, dpi=160)
    return [pictures / name for name in figures]
