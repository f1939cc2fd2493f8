"""Download published files once, into the user's cache folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pooch

from hydragrad.datasets.cache import cache_folder
from hydragrad.datasets.files import VARIABLE
from hydragrad.errors import ChecksumMismatch, DataNotFound


class Remote(NamedTuple):
    """A file on a public server, and the md5 of it as it lies there."""

    url: str
    md5: str


def download(name: str, remotes: Sequence[Remote]) -> tuple[Path, ...]:
    """Return local paths of the files, fetching with a progress bar those that are not in the cache.

    Args:
        name: The data set's, and of its folder in the cache.
        remotes: What to fetch.

    Raises:
        DataNotFound: The server cannot be reached, or the cache folder cannot be written.
        ChecksumMismatch: The server sent something else.
    """
    return tuple(_fetch(name, remote) for remote in remotes)


def _fetch(name: str, remote: Remote) -> Path:
    instead = f"Put the published files in a folder and name it: --data-dir, data_dir= or {VARIABLE}."
    try:
        path = pooch.retrieve(
            remote.url,
            known_hash=f"md5:{remote.md5}",
            fname=remote.url.rsplit("/", 1)[-1],
            path=cache_folder() / name,
            progressbar=True,
        )
    except OSError as error:
        raise DataNotFound(f"{name} could not be downloaded from {remote.url}: {error}. {instead}") from error
    except ValueError as error:
        raise ChecksumMismatch(
            f"{remote.url} did not send the published file, expected md5 {remote.md5}: {error} {instead}"
        ) from error
    return Path(path)
