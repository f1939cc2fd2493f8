"""Labels of published test sets that people were asked to check.

Source: Northcutt, Athalye, Mueller, "Pervasive Label Errors in Test Sets", NeurIPS 2021 Datasets and Benchmarks.
"""

import json
import os
from dataclasses import dataclass

from hydragrad.datasets.download import Remote, download
from hydragrad.datasets.files import data_folder, locate, read_verified
from hydragrad.errors import UnknownName

SERVER = "https://github.com/cleanlab/label-errors/raw/main/mturk/"
FILES: dict[str, Remote] = {
    "mnist": Remote(f"{SERVER}mnist_mturk.json", "ebd50ddf96c29b4efe04bd15c8b0bd41"),
    "cifar10": Remote(f"{SERVER}cifar10_mturk.json", "d3f2217f2bb7fe18eca521458e936602"),
}
PLACES = ("label-errors", "label-errors/mturk", "mturk", ".")
MAJORITY = 3


@dataclass(frozen=True, kw_only=True)
class CheckedLabel:
    """A test label that five people checked.

    Attributes:
        sample: Number in the published test set.
        label: The published label.
        votes: How many of the five agreed with it.
    """

    sample: int
    label: int
    votes: int

    @property
    def wrong(self) -> bool:
        """Whether fewer than three of five agreed."""
        return self.votes < MAJORITY


def checked_labels(data: str, *, data_dir: str | os.PathLike[str] | None = None) -> list[CheckedLabel]:
    """Return the test labels that were checked, in the order of the file.

    Args:
        data: mnist or cifar10.
        data_dir: A folder that holds the file; None: HYDRAGRAD_DATA, else it is downloaded.

    Raises:
        UnknownName: Another data set.
        DataNotFound: The file is not in the folder, or can't be downloaded.
        ChecksumMismatch: It is another file.
    """
    if data not in FILES:
        raise UnknownName(
            f"The data set must be one of {', '.join(FILES)}, whose test labels people checked; got {data!r}."
        )
    remote, folder = FILES[data], data_folder(data_dir)
    name = remote.url.rsplit("/", 1)[-1]
    path = locate(name, folder, PLACES, [(name,)]).paths[0] if folder else download("label-errors", [remote])[0]
    entries = json.loads(read_verified(path, remote.md5))
    # A "guessed" label may equal the given one, so that only "given" counts.
    return [
        CheckedLabel(sample=entry["id"], label=entry["given_original_label"], votes=entry["mturk"]["given"])
        for entry in entries
    ]
