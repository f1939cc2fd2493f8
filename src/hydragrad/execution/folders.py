"""The folder that work reads, told from what another machine has under the same path, and copied there."""

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4

from filelock import FileLock

from hydragrad.disk import make_folder, replace_file
from hydragrad.errors import NotWritable

COMPLETE = "complete"


@runtime_checkable
class Movable(Protocol):
    """Work that reads files of one folder, and can read a copy of them."""

    @property
    def folder(self) -> Path:
        """The folder, an absolute path."""
        ...

    @property
    def files(self) -> Iterable[Path]:
        """The files in it that the work reads."""
        ...

    def moved_to(self, folder: Path) -> Any:
        """The same work on a copy of the folder; results are not written there."""
        ...


TOKEN = "folder.json"
"""A small file by which a folder is known."""


@runtime_checkable
class Writes(Protocol):
    """Work that writes into a folder, which must be the same one for every worker."""

    @property
    def shared(self) -> "Listing":
        """A file of the folder."""
        ...


def shared_folder(folder: Path) -> "Listing":
    """Make a folder, with a file by which workers know it."""
    make_folder(folder)
    token = folder / TOKEN
    if not token.exists():
        replace_file(token, lambda to: to.write_text(json.dumps({"folder": uuid4().hex}) + "\n"), several=True)
    return _listing(folder, [TOKEN])


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Files of a folder.

    Attributes:
        folder: An absolute path.
        sizes: Bytes by name.
        digest: Of the content of the small files.
    """

    folder: Path
    sizes: dict[str, int]
    digest: str

    def seen(self) -> bool:
        """Whether the same files are there for this process."""
        try:
            return _listing(self.folder, self.sizes) == self
        except OSError:
            return False

    def packed(self) -> bytes:
        """All files, as one archive."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name in self.sizes:
                tar.add(self.folder / name, arcname=name)
        return archive.getvalue()

    def copy(self, archive: bytes) -> Path:
        """Unpack an archive once for all processes of this machine; it stays in the folder of temporary files."""
        digest = hashlib.sha256(f"{self.folder} {self.digest} {sorted(self.sizes.items())}".encode()).hexdigest()[:24]
        folder = Path(tempfile.gettempdir()) / f"hydragrad-{os.getuid()}" / digest
        _make_own(folder.parent)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / COMPLETE).exists():
                with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                    # Python before 3.11.4 has no filters; the archive is this program's own.
                    if hasattr(tarfile, "data_filter"):
                        tar.extraction_filter = tarfile.data_filter
                    tar.extractall(folder)
                (folder / COMPLETE).touch()
        return folder


def _make_own(folder: Path) -> None:
    """Make a folder that nobody else may write; anybody may write where temporary files lie."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise NotWritable(f"{folder} must be a folder of this user. Remove it, or set TMPDIR to another folder.")


def listing_of(work: Movable) -> Listing:
    """The files that work reads."""
    folder = work.folder
    return _listing(folder, [path.relative_to(folder).as_posix() for path in work.files])


SMALL = 1 << 16
"""Bytes up to which a file's content is compared, next to its size."""


def _listing(folder: Path, names: Iterable[str]) -> Listing:
    sizes = {name: (folder / name).stat().st_size for name in sorted(names)}
    digest = hashlib.sha256()
    for name, size in sizes.items():
        if size <= SMALL:
            digest.update(name.encode())
            digest.update((folder / name).read_bytes())
    return Listing(folder=folder, sizes=sizes, digest=digest.hexdigest())
