"""Work on its way to another process, and there: pickled once, unpickled once a process, done one job at a time."""

import hashlib
import importlib.metadata
import os
import pickle
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray

from hydragrad.errors import Unsupported
from hydragrad.execution.folders import Listing, Movable, Writes, listing_of
from hydragrad.progress import quiet

LIBRARIES = ("hydragrad", "torch")
"""What must be the same in a worker as here, or numbers may differ."""


Content = NDArray[np.uint8]
"""Work, pickled; an array, which Ray does not copy."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What stands on a shipment.

    Attributes:
        digest: Of its content.
        listing: The files that the work reads, where it reads any.
        shared: A file of the folder that it writes into, where it writes any.
        versions: Of the libraries here.
        origin: Host and process that ship it.
        search: Where modules are imported from here.
    """

    digest: str
    listing: Listing | None
    shared: Listing | None
    versions: dict[str, str]
    origin: tuple[str, int]
    search: tuple[str, ...]


class Shipment(NamedTuple):
    """Work for other processes."""

    label: Label
    content: Content

    @classmethod
    def of(cls, work: Callable[[Any], Any]) -> "Shipment":
        """Pickle work.

        Raises:
            Unsupported: It can't be pickled.
        """
        try:
            content = cloudpickle.dumps(work)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise Unsupported(
                f"The model, loss and data set must be picklable to reach worker processes: {error}. Use "
                f"executor='here' (workers=1), or remove open files, locks and generators from them."
            ) from error
        label = Label(
            digest=hashlib.sha256(content).hexdigest(),
            listing=listing_of(work) if isinstance(work, Movable) else None,
            shared=work.shared if isinstance(work, Writes) else None,
            versions=_versions(),
            origin=(socket.gethostname(), os.getpid()),
            search=tuple(path for path in sys.path if path),
        )
        return cls(label, np.frombuffer(content, dtype=np.uint8))


class Done(NamedTuple):
    """What a job gave, and the warnings that were raised on its way."""

    result: Any
    warned: tuple[tuple[type[Warning], str], ...]


class _Received:
    """The work of the last shipment that came to this process."""

    digest: str | None = None
    work: Callable[[Any], Any]
    busy = threading.Lock()


def do(label: Label, content: Callable[[], Content], job: Any, moved: Callable[[], Path] | None = None) -> Done:
    """Do a job in a worker: no bars, one torch thread unless the work sets another number.

    Args:
        label: Of the work's shipment.
        content: Gives its content, where this process does not have the work yet.
        job: The work's argument.
        moved: Gives the folder that a copy of the files lies in; None: they are where they were.

    Raises:
        Unsupported: The worker is a thread of the process that ships, has other versions of the libraries, or does not
            see the files.
    """
    _require_fitting_worker(label)
    # Torch's generators and switches belong to the process: threads of one take turns.
    with _Received.busy, warnings.catch_warnings(record=True) as warned, quiet(), _one_thread():
        warnings.simplefilter("always")
        if _Received.digest != label.digest:
            _Received.work = _received(label, content(), moved)
            _Received.digest = label.digest
        result = _Received.work(job)
    return Done(result, tuple((one.category, str(one.message)) for one in warned))


def do_shipped(shipment: Shipment, job: Any) -> Done:
    """The same, where label and content come together."""
    return do(shipment.label, lambda: shipment.content, job)


def _received(label: Label, content: Content, moved: Callable[[], Path] | None) -> Callable[[Any], Any]:
    sys.path += [path for path in label.search if path not in sys.path and Path(path).exists()]
    work: Callable[[Any], Any] = cloudpickle.loads(content.data)
    _require_seen(label.shared, "")
    if moved is not None and isinstance(work, Movable):
        moved_work: Callable[[Any], Any] = work.moved_to(moved())
        return moved_work
    _require_seen(label.listing, ", or use hg.RayExecutor(), which copies it")
    return work


def _require_seen(listing: Listing | None, otherwise: str) -> None:
    if listing is not None and not listing.seen():
        raise Unsupported(
            f"{listing.folder} must be the same folder for every worker, and {socket.gethostname()} does not see its "
            f"files. Put it on storage that all machines share{otherwise}."
        )


def _require_fitting_worker(label: Label) -> None:
    if label.origin == (socket.gethostname(), os.getpid()):
        raise Unsupported(
            "The executor runs jobs in threads of this process, which share torch's random generators with it. Give "
            "one that runs them in other processes, or executor='here'."
        )
    here = _versions()
    if here != label.versions:
        raise Unsupported(
            f"The worker on {socket.gethostname()} must have the versions that this process has, "
            f"{_in_words(label.versions)}, and has {_in_words(here)}. Install the same everywhere."
        )


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _in_words(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
