"""Settings as the manifest saves them."""

from dataclasses import asdict

import pytest

from hydragrad.experiments.settings import Settings


@pytest.mark.parametrize("settings", [Settings(data="digits", model="lenet5"), Settings(source="a:b", optimizer=None)])
def test_settings_of_runs_from_before_there_was_a_choice_of_optimizers_are_read(settings):
    saved = asdict(settings)
    assert Settings.read(saved) == settings
    del saved["optimizer"]
    assert Settings.read(saved) == settings
