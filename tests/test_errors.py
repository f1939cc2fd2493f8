"""The tree drawn in the docstring of errors is the tree that is there."""

import builtins
import inspect
import re

import pytest

from hydragrad import errors

CLASSES = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
DRAWN = re.findall(r"[├└]── (\w+) +(?:\((\w+)\))?", errors.__doc__)


def test_every_error_is_drawn_once():
    assert [name for name, _ in DRAWN] == [name for name in CLASSES if name != "HydragradError"]


@pytest.mark.parametrize(("name", "builtin"), DRAWN)
def test_every_error_is_what_the_drawing_says(name, builtin):
    error = CLASSES[name]
    assert issubclass(error, errors.HydragradError)
    assert error.__doc__
    if builtin:
        assert getattr(builtins, builtin) in error.__bases__
    inner = f"    │   ├── {name}" in errors.__doc__ or f"        ├── {name}" in errors.__doc__
    inner = inner or f"        └── {name}" in errors.__doc__
    assert (errors.DataError in error.__bases__) == inner


def test_one_except_catches_all():
    for error in CLASSES.values():
        with pytest.raises(errors.HydragradError, match="what came"):
            raise error("what came")
