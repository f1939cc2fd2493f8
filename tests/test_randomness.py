import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.randomness import (
    BATCH,
    FORWARD,
    ORDER,
    StepSeeds,
    every_generator_state,
    preserved,
    reseed,
    reseed_everything,
    seeded,
    set_generator_states,
    stream_seed,
)


def draws():
    """Also of the normal distributions, which keep a second number for the next call."""
    return (
        torch.rand(3).tolist(),
        random.random(),
        random.gauss(0, 1),
        np.random.random(3).tolist(),
        np.random.standard_normal(),
    )


def test_seeds_of_steps_and_streams_are_all_different():
    seeds = [stream_seed(run, step, s) for run in (0, 1, 10) for step in range(200) for s in (FORWARD, BATCH, ORDER)]
    assert len(set(seeds)) == len(seeds)


@given(st.integers(0, 2**62), st.integers(0, 2**40), st.sampled_from([FORWARD, BATCH, ORDER]))
def test_a_stream_seed_is_a_valid_torch_seed(seed, step, stream):
    derived = stream_seed(seed, step, stream)
    assert 0 <= derived < 2**63
    assert derived == stream_seed(seed, step, stream)
    torch.Generator().manual_seed(derived)


def test_the_seeds_of_recorded_runs_never_change():
    """Runs on disk are replayed from these."""
    assert stream_seed(0, 0) == stream_seed(0, 0, "forward") == 897135409101098177
    assert stream_seed(7, 3, BATCH) == 5720903444880021973
    assert stream_seed(2**62, 10**6, ORDER) == 72090110540450838


def test_the_same_seed_gives_the_same_draws():
    reseed_everything(5)
    first = draws()
    reseed_everything(5)
    assert draws() == first
    reseed_everything(6)
    assert all(one != other for one, other in zip(draws(), first, strict=True))


def test_reseeding_torch_does_not_change_the_other_generators():
    reseed_everything(5)
    draws()
    expected = draws()[1:]
    reseed_everything(5)
    draws()
    reseed(9)
    assert draws()[1:] == expected


@pytest.mark.parametrize("before", [0, 1])
def test_generator_states_are_restored(before):
    """With and without a second normal number in the generator's buffer."""
    reseed_everything(5)
    for _ in range(before):
        draws()
    states = every_generator_state()
    expected = draws(), draws()
    reseed_everything(8)
    draws()
    set_generator_states(states)
    assert (draws(), draws()) == expected


@pytest.mark.parametrize("before", [0, 1])
def test_preserved_restores_every_generator(before):
    reseed_everything(5)
    for _ in range(before):
        draws()
    states = every_generator_state()
    with pytest.raises(KeyboardInterrupt), preserved():
        reseed_everything(1)
        draws()
        raise KeyboardInterrupt
    after = every_generator_state()
    assert states.keys() == after.keys()
    assert all(torch.equal(after[name], state) for name, state in states.items())


def test_a_step_seeds_every_generator_where_steps_draw_from_them():
    def looped(draw):
        seeds, random_numbers = StepSeeds(), []
        for step in range(12):
            with seeds.seeded(100 + step):
                random_numbers.append(draw())
        return random_numbers

    for draw in (random.random, np.random.rand, lambda: torch.rand(()).item()):
        with preserved():
            first = looped(draw)
            draw()
            assert looped(draw) == first and len(set(first)) == 12
            with seeded(105):
                assert draw() == first[5]


def test_a_step_leaves_the_generators_of_the_loop_as_they_were():
    with preserved():
        random.seed(1), np.random.seed(1)
        expected = [random.random(), np.random.rand()]
        random.seed(1), np.random.seed(1)
        seeds = StepSeeds()
        for step in range(5):
            with seeds.seeded(step):
                random.random(), np.random.rand()
        assert [random.random(), np.random.rand()] == expected


def test_seeded_draws_from_its_seed_and_restores_torch():
    torch.manual_seed(3)
    expected = torch.rand(2).tolist()
    torch.manual_seed(3)
    with seeded(11):
        inside = torch.rand(2).tolist()
    assert torch.rand(2).tolist() == expected
    with seeded(11):
        assert torch.rand(2).tolist() == inside
    torch.manual_seed(11)
    assert torch.rand(2).tolist() == inside
