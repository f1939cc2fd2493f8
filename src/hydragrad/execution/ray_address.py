"""Whether a Ray cluster answers at an address, asked before Ray asks: it would wait for many minutes."""

import os
import socket
from pathlib import Path

from hydragrad.errors import Unsupported

SECONDS = 10.0
"""In which a cluster must answer."""


def cluster_address(address: str | None) -> str | None:
    """The address to connect to: the given one, RAY_ADDRESS, or None: what Ray finds on this machine or starts there.

    Raises:
        Unsupported: Nothing answers there.
    """
    named = address or os.environ.get("RAY_ADDRESS")
    if named is not None:
        _require_answer(named)
        return named
    left = _noted_address()
    return "local" if left is not None and not answers(left) else None


def answers(address: str) -> bool:
    """Whether something answers at "host:port"; True of addresses of another form, which Ray knows."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not (host and port.isdigit()):
        return True
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS).close()
    except OSError:
        return False
    return True


def _require_answer(address: str) -> None:
    if not answers(address):
        raise Unsupported(
            f"RayExecutor must name a running cluster, and nothing answers at {address}. Start it (ray start "
            f"--head), or leave the address out, and RAY_ADDRESS unset, for one on this machine."
        )


def _noted_address() -> str | None:
    """Where Ray noted the last cluster of this machine, which may have been killed since."""
    try:
        return (Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None
