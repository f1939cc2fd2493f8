"""Runs that never got through their first step: told from all others, and cleared away."""

from contextlib import suppress
from pathlib import Path

from hydragrad.errors import HydragradError
from hydragrad.runs.averages import AVERAGES
from hydragrad.runs.checkpoints import CheckpointFolder
from hydragrad.runs.lines import locked
from hydragrad.runs.log import LOG
from hydragrad.runs.manifest import FILE, read_manifest
from hydragrad.runs.stored_batches import batch_path


def holds_run(path: Path) -> bool:
    """Whether a run is in `path` that a new recording must not touch: anything but one that never started."""
    return (path / FILE).exists() and not never_started(path)


def never_started(path: Path) -> bool:
    """Whether `path` holds a run without a single complete step that no process is recording now.

    A run that was killed before it had a manifest is one, too. A manifest that can't be read, checkpoints or batches of
    later steps, or scores make it one that did start: a damaged run may be worth repairing.
    """
    if not (path / FILE).exists():
        return _opened_only(path)
    try:
        manifest = read_manifest(path)
        entries = CheckpointFolder(path).entries() if CheckpointFolder(path).index.exists() else {}
    except HydragradError:
        return False
    log = path / LOG
    if manifest.steps or set(entries) - {0} or (path / "scores").exists() or locked(log, manifest.status == "running"):
        return False
    if log.exists() and b"\n" in log.read_bytes():
        return False
    first = {file.name for file in _of_the_step(path, 0)}
    return all(file.name in first for folder in _folders(path) if folder.exists() for file in folder.iterdir())


def _opened_only(path: Path) -> bool:
    """Whether it was killed between opening its files and writing the manifest."""
    files = [file for file in (path / LOG, CheckpointFolder(path).index) if file.exists()]
    empty = all(file.stat().st_size == 0 and not locked(file, otherwise=False) for file in files)
    others = any((path / name).exists() for name in (AVERAGES, "scores")) or any(map(Path.exists, _folders(path)))
    return bool(files) and empty and not others


def clear_away(path: Path) -> None:
    """Remove what the Recorder wrote of a run that never started, and nothing else; the manifest goes last."""
    for file in (path / LOG, path / AVERAGES, CheckpointFolder(path).index):
        file.unlink(missing_ok=True)
    for file in (*_of_the_step(path, 0), *_of_the_step(path, 1)):  # one of several processes may have been a step ahead
        file.unlink(missing_ok=True)
    for folder in _folders(path):
        with suppress(OSError):  # not there
            folder.rmdir()
    (path / FILE).unlink(missing_ok=True)


def _folders(path: Path) -> tuple[Path, Path]:
    return CheckpointFolder(path).folder, batch_path(path, 0).parent


def _of_the_step(path: Path, step: int) -> tuple[Path, ...]:
    checkpoint = CheckpointFolder(path).path(step)
    return checkpoint, checkpoint.with_name(checkpoint.name + ".tmp"), batch_path(path, step)
