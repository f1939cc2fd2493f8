"""Labels of published test sets that people checked.

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
SUBFOLDERS = ("label-errors", "label-errors/mturk", "mturk", ".")
MAJORITY = 3


@dataclass(frozen=True, kw_only=True)
class CheckedLabel:
    """A test label that five people checked.

    Attributes:
        sample: Number in the published test set.
        label: The published label.
        votes: Number of the five who agreed with it.
    """

    sample: int
    label: int
    votes: int

    @property
    def wrong(self) -> bool:
        """Whether fewer than three of the five agreed."""
        return self.votes < MAJORITY


def checked_labels(data: str, *, data_dir: str | os.PathLike[str] | None = None) -> list[CheckedLabel]:
    """Load the test labels that were checked, in the order of the file.

    Args:
        data: mnist or cifar10.
        data_dir: A folder that holds the file. None: the folder in HYDRAGRAD_DATA; without one, a download.

    Raises:
        UnknownName: `data` is another data set.
        DataNotFound: The file is not in the folder, or cannot be downloaded.
        ChecksumMismatch: The file is not the published one.
    """
    if data not in FILES:
        raise UnknownName(f"data must be a data set with checked test labels ({', '.join(FILES)}), got {data!r}.")
    remote, folder = FILES[data], data_folder(data_dir)
    name = remote.url.rsplit("/", 1)[-1]
    path = locate(name, folder, SUBFOLDERS, [(name,)]).paths[0] if folder else download("label-errors", [remote])[0]
    entries = json.loads(read_verified(path, remote.md5))
    # Where the guessed label equals the given one, "guessed" is no second vote. So only "given" counts.
    return [
        CheckedLabel(sample=entry["id"], label=entry["given_original_label"], votes=entry["mturk"]["given"])
        for entry in entries
    ]
