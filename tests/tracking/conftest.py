"""Recordings of the cases, as the tests of attribution have them."""

from attribution.conftest import muon_without_rounding as muon_without_rounding
from attribution.conftest import recorded as recorded
