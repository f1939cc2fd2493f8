"""Damages: one file of a folder is altered; reading it gives the same answer or a named error, or a warning."""

import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from faults import toys
from faults.processes import Outcome, run
from faults.toys import Task
from faults.trials import Trial, Trials
from hydragrad.progress import bar

ACCIDENTS = ("flipped", "cut", "zeroed", "swapped", "duplicated", "missing", "appended")


@dataclass(frozen=True)
class Read:
    """How a folder is made, what reads it, and which files are damaged."""

    make: tuple[Task, ...]
    read: Task
    files: tuple[str, ...] = ("run/**/*",)


RETRAINED = ("run/retrained/*", "run/**/signals*", "run/**/influence*", "run/scores/*", "run/*.json")
READS = {
    "run": Read((toys.train,), toys.both_curvatures),
    "run, batches stored": Read((toys.record_with_batches,), toys.both_curvatures),
    "run, resumed": Read((toys.interrupted(toys.train, 11),), toys.train),
    "run by epochs, resumed": Read((toys.interrupted(toys.train_by_epochs, 23),), toys.train_by_epochs),
    "attribution, resumed": Read(
        (toys.train, toys.interrupted(toys.attributing(curvature="hessian"), 20)),
        toys.attributing(curvature="hessian"),
        ("run/scores/*",),
    ),
    "store": Read((toys.train, toys.fill), toys.open_store, ("store/*",)),
    "store, resumed": Read((toys.train, toys.interrupted(toys.fill, 16)), toys.fill, ("store/*",)),
    "tracked store, resumed": Read((toys.interrupted(toys.track, 20),), toys.track, ("store/*",)),
    "tracked store, opened": Read((toys.interrupted(toys.track, 20),), toys.open_store, ("store/*",)),
    "scores": Read((toys.train, toys.save_scores), toys.load_scores, ("*.safetensors",)),
    "caches": Read((toys.train, toys.both_caches), toys.both_caches, RETRAINED),
}
"""What is damaged, by name."""


def campaign(total: int, trials: Trials, seed: int) -> None:
    """Damage folders in turn, so many times."""
    with tempfile.TemporaryDirectory() as scratch, bar("damages", total, len(trials.done), unit="files") as progress:
        templates: dict[str, tuple[Path, Outcome]] = {}
        while len(trials.done) < total:
            number = len(trials.done)
            name = list(READS)[number % len(READS)]
            if name not in templates:
                templates[name] = _template(name, Path(scratch))
            trials.add(
                _trial(name, Path(scratch) / "folder", *templates[name], random.Random(f"{seed} {number}"), seed)
            )
            progress.advance()


def _template(name: str, scratch: Path) -> tuple[Path, Outcome]:
    template, folder = scratch / f"{name} whole", scratch / "folder"
    template.mkdir()
    for task in READS[name].make:
        outcome = run(task, template)
        if outcome.kind in ("foreign", "crash", "hang"):
            raise RuntimeError(f"{name} can't be laid out: {outcome}")
    shutil.copytree(template, folder)
    expected = run(READS[name].read, folder)
    shutil.rmtree(folder)
    if expected.kind != "answer":
        raise RuntimeError(f"{name} gives no answer undamaged: {expected}")
    return template, expected


def _trial(name: str, folder: Path, template: Path, expected: Outcome, chance: random.Random, seed: int) -> Trial:
    shutil.copytree(template, folder)
    accident = chance.choice(ACCIDENTS)
    files = sorted({path for files in READS[name].files for path in folder.glob(files) if path.is_file()})
    path = chance.choice(files)
    what = f"{path.relative_to(folder)} {_damage(path, files, accident, chance)}"
    outcome = run(READS[name].read, folder)
    shutil.rmtree(folder)
    came = outcome.kind
    if came == "answer":
        warned = set(outcome.warnings) - set(expected.warnings)
        came = "same" if outcome.text == expected.text else "warned" if warned else "other"
    text = what if came in ("same", "warned", "other") else f"{what}: {outcome.text}"
    return Trial("damages", name, accident, came, text[:400], seed)


def _damage(path: Path, files: list[Path], accident: str, chance: random.Random) -> str:
    """Alter a file; returns how."""
    raw = path.read_bytes()
    at, sibling = chance.randrange(len(raw) or 1), chance.choice(_siblings(path, files))
    if accident == "flipped" and raw:
        bit = 1 << chance.randrange(8)
        path.write_bytes(raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :])
        return f"at {at} of {len(raw)} by {bit}"
    if accident == "cut":
        os.truncate(path, at)
        return f"to {at} of {len(raw)}"
    if accident == "zeroed":
        length = min(chance.choice((1, 16, 512, 4096)), len(raw) - at)
        path.write_bytes(raw[:at] + bytes(length) + raw[at + length :])
        return f"{length} at {at} of {len(raw)}"
    if accident == "swapped":
        path.write_bytes(sibling.read_bytes())
        sibling.write_bytes(raw)
        return f"with {sibling.name}"
    if accident == "duplicated":
        path.write_bytes(sibling.read_bytes())
        return f"from {sibling.name}"
    if accident == "missing":
        path.unlink()
        return f"of {len(raw)}"
    path.write_bytes(raw + chance.randbytes(chance.choice((1, 16, 600))))
    return f"to {len(raw)}"


def _siblings(path: Path, files: list[Path]) -> list[Path]:
    """Files of the same kind; of any kind where there is no other."""
    others = [other for other in files if other != path]
    return [other for other in others if other.suffix == path.suffix] or others or [path]
