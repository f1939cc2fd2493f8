"""The tree in the docstring of errors is the tree of the classes."""

import builtins
import inspect
import re

import pytest

from hydragrad import errors

CLASSES = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
IN_DOCSTRING = re.findall(r"[├└]── (\w+) +(?:\((\w+)\))?", errors.__doc__)


def test_the_docstring_names_every_error_once():
    assert [name for name, _ in IN_DOCSTRING] == [name for name in CLASSES if name != "HydragradError"]


@pytest.mark.parametrize(("name", "builtin"), IN_DOCSTRING)
def test_every_error_has_the_bases_in_the_docstring(name, builtin):
    error = CLASSES[name]
    assert issubclass(error, errors.HydragradError)
    assert error.__doc__
    if builtin:
        assert getattr(builtins, builtin) in error.__bases__
    inner = f"    │   ├── {name}" in errors.__doc__ or f"        ├── {name}" in errors.__doc__
    inner = inner or f"        └── {name}" in errors.__doc__
    assert (errors.DataError in error.__bases__) == inner


def test_hydragrad_error_catches_every_error():
    for error in CLASSES.values():
        with pytest.raises(errors.HydragradError, match="a message"):
            raise error("a message")
