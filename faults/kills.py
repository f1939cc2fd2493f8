"""Kills: SIGKILL at random moments, several in the same folder, until the task is done: at the undisturbed bits."""

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

KILLS_IN_A_FOLDER = 4


@dataclass(frozen=True)
class Killed:
    """A task to kill, and what its folder holds before."""

    task: Task
    before: tuple[Task, ...] = ()


TASKS = {
    "train": Killed(toys.train),
    "train by epochs": Killed(toys.train_by_epochs),
    "record": Killed(toys.record),
    "record, batches stored": Killed(toys.record_with_batches),
    "track": Killed(toys.track),
    "hypergradients": Killed(toys.fill, (toys.train,)),
    "attribute, none": Killed(toys.attributing(), (toys.train,)),
    "attribute, hessian": Killed(toys.attributing(curvature="hessian"), (toys.train,)),
    "counterfactual": Killed(toys.leave_out, (toys.train,)),
    "clean": Killed(toys.clean, (toys.train,)),
}


def campaign(total: int, trials: Trials, seed: int) -> None:
    """Kill tasks in turn until there were so many kills."""
    killed = len(trials.done)
    with tempfile.TemporaryDirectory() as scratch, bar("kills", total, killed, unit="kills") as progress:
        templates: dict[str, tuple[Path, Outcome]] = {}
        round_ = 0
        while len(trials.done) < total:
            name = list(TASKS)[round_ % len(TASKS)]
            folder = Path(scratch) / "folder"
            if name not in templates:
                templates[name] = _template(name, Path(scratch))
            before = len(trials.done)
            _one_folder(name, folder, *templates[name], random.Random(f"{seed} {before} {name}"), trials, seed)
            progress.advance(len(trials.done) - before)
            round_ += 1


def _template(name: str, scratch: Path) -> tuple[Path, Outcome]:
    """What the folder holds before, and the undisturbed answer."""
    template, undisturbed = scratch / f"{name} before", scratch / "folder"
    template.mkdir()
    for task in TASKS[name].before:
        run(task, template)
    shutil.copytree(template, undisturbed)
    outcome = run(TASKS[name].task, undisturbed)
    shutil.rmtree(undisturbed)
    if outcome.kind != "answer":
        raise RuntimeError(f"{name} gives no answer undisturbed: {outcome}")
    return template, outcome


def _one_folder(
    name: str, folder: Path, template: Path, expected: Outcome, chance: random.Random, trials: Trials, seed: int
) -> None:
    """Kill a task in one folder several times, then let it end; the last outcome is that of all these kills."""
    shutil.copytree(template, folder)
    killed, outcome = 0, expected
    for _ in range(KILLS_IN_A_FOLDER):
        outcome = run(TASKS[name].task, folder, kill_after=chance.uniform(0, expected.seconds))
        if outcome.kind != "killed":
            break
        killed += 1
    if outcome.kind == "killed":
        outcome = run(TASKS[name].task, folder)
    came = _came(outcome, expected)
    for _ in range(killed):
        trials.add(Trial("kills", name, "SIGKILL", came, "" if came == "same" else outcome.text, seed))
    shutil.rmtree(folder)


def _came(outcome: Outcome, expected: Outcome) -> str:
    if outcome.kind == "answer":
        return "same" if outcome.text == expected.text else "other"
    # After a kill a named error is no good outcome: nothing was damaged.
    return "foreign" if outcome.kind == "named" else outcome.kind
