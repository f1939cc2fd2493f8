"""The texts known by name: one file each, from their publishers or a folder.

Sources: A. Karpathy's makemore (names of the US Social Security Administration's list for 2018) and char-rnn (plays of
Shakespeare), both under the MIT licence.
"""

from dataclasses import dataclass
from pathlib import Path

from hydragrad.datasets.download import Remote, download
from hydragrad.datasets.files import locate, read_verified


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A published text: where it is, and what its file is called in a folder; `remote` has the md5 of its content."""

    name: str
    subfolders: tuple[str, ...]
    files: tuple[str, ...]
    remote: Remote


NAMES = TextFile(
    name="names",
    subfolders=("text", "names", "makemore", "."),
    files=("names.txt",),
    remote=Remote(
        "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt", "401b3c4cac9e28a586ed15e81256680d"
    ),
)

SHAKESPEARE = TextFile(
    name="shakespeare",
    subfolders=("text", "shakespeare", "tinyshakespeare", "."),
    files=("tinyshakespeare.txt", "input.txt"),
    remote=Remote(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "6fb458f1232090904fb40fe944165e91",
    ),
)


def read_text(source: TextFile, folder: Path | None) -> str:
    """Read the file from a folder, or download it if it is None.

    Raises:
        DataNotFound: The file is not in the folder, or cannot be downloaded.
        ChecksumMismatch: It is not the published one.
    """
    if folder:
        path = locate(source.name, folder, source.subfolders, [(file,) for file in source.files]).paths[0]
    else:
        path = download(source.name, [source.remote])[0]
    return read_verified(path, source.remote.md5).decode("utf-8")
