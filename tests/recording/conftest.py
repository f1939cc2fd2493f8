"""Shared by the tests of recording."""

import signal

import pytest


@pytest.fixture
def ctrl_c_raises():
    """As in a shell; what is started in the background may ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
