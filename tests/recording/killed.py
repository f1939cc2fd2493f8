"""Processes that die by SIGKILL: what they wrote until then is all that is left."""

import multiprocessing
import signal
from collections.abc import Callable
from typing import Any

import torch

# Every process is forked from a server that has imported torch once and has never run anything.
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["torch", "hydragrad"])


def killed(run: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Call `run` in another process, which must kill itself before it returns."""
    process = _server.Process(target=_one_thread, args=(run, args, options))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, f"the process was not killed; exit code {process.exitcode}"


def _one_thread(run: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    run(*args, **options)
