"""MNIST and Fashion-MNIST: four IDX files each.

An IDX file is big-endian: two zero bytes, a type byte (8: uint8), the number of dimensions, each dimension
as an int32, then the values.

Sources: LeCun, Cortes, Burges, "The MNIST database of handwritten digits"; Xiao, Rasul, Vollgraf 2017.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydragrad.datasets.download import Remote, download
from hydragrad.datasets.files import Located, locate, read_verified
from hydragrad.datasets.published import Published

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MARGIN = 2  # 28×28 → 32×32


class Checksums(NamedTuple):
    """md5 of a file's content, and of the gzipped file that the server sends."""

    content: str
    gzipped: str


@dataclass(frozen=True, kw_only=True)
class IdxSource:
    """The four IDX files of a data set: where they are, and what they mean; `checksums` in the order of FILES."""

    name: str
    subfolders: tuple[str, ...]
    server: str
    checksums: tuple[Checksums, ...]
    classes: tuple[str, ...]
    mean: float
    std: float


MNIST = IdxSource(
    name="mnist",
    subfolders=("mnist", "MNIST/raw", "MNIST", "raw", "."),
    server="https://ossci-datasets.s3.amazonaws.com/mnist/",
    checksums=(
        Checksums("6bbc9ace898e44ae57da46a324031adb", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        Checksums("a25bea736e30d166cdddb491f175f624", "d53e105ee54ea40749a09fcbcd1e9432"),
        Checksums("2646ac647ad5339dbf082846283269ea", "9fb629c4189551a2d022fa330f9573f3"),
        Checksums("27ae3e4e09519cfbb04c329615203637", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    classes=tuple("0123456789"),
    mean=0.1307,
    std=0.3081,
)

FASHION = IdxSource(
    name="fashion",
    subfolders=("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion", "raw", "."),
    server="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    checksums=(
        Checksums("f4a8712d7a061bf5bd6d2ca38dc4d50a", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        Checksums("9018921c3c673c538a1fc5bad174d6f9", "25c81989df183df01b3e8a0aad5dffbe"),
        Checksums("8181f5470baa50b63fa0f6fddb340f0a", "bef4ecab320f06d8554ea6380940ec79"),
        Checksums("15d484375f8d13e6eb1aabb0c3f46965", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    mean=0.2860,
    std=0.3530,
)


def read_idx(source: IdxSource, folder: Path | None) -> Published:
    """Read the four files from a folder, or download them if it is None.

    Raises:
        DataNotFound: The files are not in the folder, or cannot be downloaded.
        ChecksumMismatch: A file is not the published one.
    """
    located = locate(source.name, folder, source.subfolders, [FILES]) if folder else _downloaded(source)
    contents = (
        read_verified(path, checksums.content) for path, checksums in zip(located.paths, source.checksums, strict=True)
    )
    train_images, train_labels, test_images, test_labels = map(parse_idx, contents)
    return Published(
        train_images=_padded(train_images),
        train_labels=train_labels.astype(np.int64),
        test_images=_padded(test_images),
        test_labels=test_labels.astype(np.int64),
        classes=source.classes,
        mean=(source.mean,),
        std=(source.std,),
    )


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """Decode a verified IDX file: uint8, read-only, of the shape in its header."""
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _downloaded(source: IdxSource) -> Located:
    remotes = [
        Remote(f"{source.server}{file}.gz", checksums.gzipped)
        for file, checksums in zip(FILES, source.checksums, strict=True)
    ]
    return Located(FILES, download(source.name, remotes))


def _padded(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 28, 28) → (N, 1, 32, 32), with black margins."""
    return np.pad(images, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))[:, None]
