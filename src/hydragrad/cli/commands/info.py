"""`hydragrad info`."""

from typing import Any

import torch

from hydragrad.cli.console import table, write_json
from hydragrad.cli.options import Json, Quiet, Run
from hydragrad.runs.processes import RANKS, read_whole_manifest
from hydragrad.scores import saved_scores
from hydragrad.training import epoch_logs


def info(run: Run, json: Json = None, silent: Quiet = False) -> None:
    """Show what a run directory holds; needs neither data nor model.

    Example: hydragrad info runs/m
    """
    manifest = read_whole_manifest(run)
    logs = epoch_logs(run)
    parameters = sum(torch.Size(shape).numel() for shape, _ in manifest.model["parameters"].values())
    other_runs = {run / "clean", run / "seeds"}
    files = [file for file in run.rglob("*") if file.is_file() and other_runs.isdisjoint(file.parents)]
    size = sum(file.stat().st_size for file in files)
    scores = [saved.path.stem for saved in saved_scores(run / "scores")]
    about = manifest.about.get("settings", manifest.about)
    figures: dict[str, Any] = {
        "status": manifest.status,
        "steps": manifest.steps,
        "epochs": len(logs),
        "samples": manifest.data["length"],
        "model": manifest.model["class"],
        "parameters": parameters,
        "bytes": size,
        "processes": manifest.processes,
        "checkpoints": sum(
            file.parent.name == "checkpoints" and RANKS not in file.relative_to(run).parts for file in files
        ),
        "scores": scores,
        "schema": manifest.schema,
    }
    rows = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in figures.items()}
    rows["size"] = f"{size / 2**20:.1f} MiB"
    del rows["bytes"]
    rows |= {"scores": ", ".join(scores) or "none yet"}
    rows |= {f"setting: {name}": str(value) for name, value in about.items() if value is not None}
    rows |= {f"machine: {name}": str(value) for name, value in manifest.machine.items()}
    if logs:
        rows["last epoch"] = ", ".join(f"{n} {v:.4g}" for n, v in logs[-1].items() if n != "epoch")
    table(str(run), rows)
    write_json(json, figures | {"run": str(run)})
