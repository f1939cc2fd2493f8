"""Download published files once, into the user's cache folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pooch

from hydragrad.datasets.cache import cache_folder
from hydragrad.datasets.files import FOLDER_VARIABLE
from hydragrad.errors import ChecksumMismatch, DataNotFound


class Remote(NamedTuple):
    """A file on a public server, and its md5 there."""

    url: str
    md5: str


def download(name: str, remotes: Sequence[Remote]) -> tuple[Path, ...]:
    """Return local paths of the files, after fetching those that are not in the cache, with a progress bar.

    Args:
        name: Name of the data set and of its folder in the cache.
        remotes: The files to fetch.

    Raises:
        DataNotFound: The server cannot be reached, or the cache folder cannot be written.
        ChecksumMismatch: The server sent other content.
    """
    return tuple(_fetch(name, remote) for remote in remotes)


def _fetch(name: str, remote: Remote) -> Path:
    advice = f"Put the published files in a folder and name it: --data-dir, data_dir= or {FOLDER_VARIABLE}."
    try:
        path = pooch.retrieve(
            remote.url,
            known_hash=f"md5:{remote.md5}",
            fname=remote.url.rsplit("/", 1)[-1],
            path=cache_folder() / name,
            progressbar=True,
        )
    except OSError as error:
        raise DataNotFound(f"{name} could not be downloaded from {remote.url}: {error}. {advice}") from error
    except ValueError as error:
        raise ChecksumMismatch(
            f"{remote.url} did not send the published file, expected md5 {remote.md5}: {error} {advice}"
        ) from error
    return Path(path)
