"""Shared by the tests of the run directory."""

from recording.conftest import ctrl_c_raises as ctrl_c_raises
