"""A framework that is not installed is named, with what to install."""

import importlib

from hydragrad.errors import FrameworkMissing


def need(module: str, extra: str, *, room: str = "integrations") -> None:
    """Import a framework, or say how to install it.

    Args:
        module: Its name in Python.
        extra: The extra of this package that installs it.
        room: Where what needs it is.

    Raises:
        FrameworkMissing: It is not installed.
    """
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise FrameworkMissing(
            f"hydragrad.{room}.{extra} needs the package {module}, which is not installed. Install it: pip "
            f"install 'hydragrad[{extra}]'."
        ) from error
