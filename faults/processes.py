"""Tasks in forked processes, which may be killed, hang or crash; what is slow to import is imported once, before."""

import os
import pickle
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from faults.toys import Task, silently
from hydragrad.errors import HydragradError

PATIENCE = 60.0
"""Seconds after which a process is said to hang."""


@dataclass(frozen=True)
class Outcome:
    """What a process came to.

    Attributes:
        kind: answer, named (an error of the library), foreign (another exception), killed, crash or hang.
        text: The answer's digest, or what was raised.
        warnings: What was warned of.
        seconds: How long it took.
    """

    kind: str
    text: str
    warnings: tuple[str, ...]
    seconds: float


def run(task: Task, folder: Path, *, kill_after: float | None = None) -> Outcome:
    """Run a task in a process of its own; killed after so many seconds, if it is not done before."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(task, folder, writer)
    os.close(writer)
    deadline = start + (PATIENCE if kill_after is None else kill_after)
    status = _wait(child, deadline)
    hung = status is None
    if hung:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - start
    with open(reader, "rb") as pipe:
        said = pipe.read()
    if hung:
        return Outcome("hang" if kill_after is None else "killed", "", (), seconds)
    if not said:
        return Outcome("crash", f"status {status}", (), seconds)
    kind, text, given = pickle.loads(said)
    return Outcome(kind, text, tuple(given), seconds)


def _wait(child: int, deadline: float) -> int | None:
    """The exit status; None where the process is still there at the deadline."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(0.002, left))


def _child(task: Task, folder: Path, writer: int) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    said: tuple[str, str, list[str]]
    try:
        said = ("answer", *silently(task, folder))
    except HydragradError as error:
        said = ("named", f"{type(error).__name__}: {error}", [])
    except BaseException as error:
        trace, where = error.__traceback__, ""
        while trace is not None:
            where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
            trace = trace.tb_next
        said = ("foreign", f"{type(error).__name__} at {where}: {error}", [])
    os.write(writer, pickle.dumps(said)[: 1 << 16])
    os._exit(0)
