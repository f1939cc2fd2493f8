"""Recordings of the cases, as the tests of attribution have them."""

from attribution.conftest import recorded as recorded
