"""Wrong labels of digits: the suspects, their contributions, and how soon they are found."""

from pathlib import Path

from hydragrad.cleaning import finding_curve, suspects
from hydragrad.cli import jobs
from hydragrad.cli.experiment import Settings, experiment
from hydragrad.figures import contribution_histogram, found_curve, picture_grid
from hydragrad.scores import Method

SETTINGS = Settings(data="digits", model="lenet5", noise=0.4, epochs=30)
SHOWN, COLUMNS = 12, 6


def make(pictures: Path, runs: Path) -> list[Path]:
    """Train, attribute, draw."""
    asked = experiment(SETTINGS, data_dir=None, run=runs if runs.exists() else None)
    run = jobs.record(asked, runs, resume=True)
    scores = jobs.saved_or_scored(asked, run, "validation", Method())
    ranked = suspects(run, scores, held_out=asked.query("validation"))
    assert asked.render is not None
    worst = ranked.head(SHOWN)
    captions = [f"sample {row.sample}\n{row.given_label} → {row.suggested_label}" for row in worst.itertuples()]
    inspected, found = finding_curve(ranked)
    drawn = {
        "suspects.png": picture_grid([asked.render(asked.train_set[i]) for i in worst["sample"]], captions, COLUMNS),
        "contributions.png": contribution_histogram(
            ranked["contribution"], marked=ranked["flipped"], marked_name="wrong labels", query="validation loss"
        ),
        "found.png": found_curve(found, inspected),
    }
    for name, figure in drawn.items():
        figure.savefig(pictures / name, dpi=160)
    return [pictures / name for name in drawn]
