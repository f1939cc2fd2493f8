"""Reported losses are compared once it is clear what they are."""

from hydragrad.replay.reported_losses import ReportedLosses


def test_three_in_a_row_establish_that_losses_are_those_of_steps():
    losses = ReportedLosses()
    for step in (0, 10, 1, 20):
        losses.agreed(step)
    assert losses.wanted and not losses.established
    losses.agreed(2)
    assert losses.established
    losses.differed()
    assert losses.wanted


def test_one_that_differs_before_ends_the_comparison():
    losses = ReportedLosses()
    losses.agreed(0)
    losses.differed()
    assert not losses.wanted
