"""The oldest release of torch that works, asked for without importing torch."""

import re
from importlib.metadata import PackageNotFoundError, version

from hydragrad.errors import TorchTooOld

OLDEST = (2, 6)
"""The oldest release of torch that the tests pass with."""


def require_supported(installed: str) -> None:
    """Refuse a release of torch that is older than the oldest that works.

    Raises:
        TorchTooOld: It is; builds before a release (`2.8.0a0+...`) count as the release.
    """
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise TorchTooOld(
            f"hydragrad needs torch {oldest} or newer; torch {installed} is installed. Install a newer one: "
            f"pip install 'torch>={oldest}'."
        )


def require_installed() -> None:
    """Refuse an older torch by what is installed; `torch_release` asks torch itself, once it is imported.

    Raises:
        TorchTooOld: It is.
    """
    try:
        installed = version("torch")
    except PackageNotFoundError:  # a build without metadata
        return
    require_supported(installed)
