"""Parameters share a lane exactly if they share a history."""

from hydragrad.steps import SGDOptions, lanes

A, B = SGDOptions(lr=0.1, momentum=0.9), SGDOptions(lr=0.2, momentum=0.9)
NO_MOMENTUM = SGDOptions(lr=0.1)


def test_equal_histories_share_a_lane_in_the_models_order():
    made = lanes({"x": [A, B], "y": [A, A], "z": [A, B]}, frozenset())
    assert [lane.names for lane in made] == [("x", "z"), ("y",)]
    assert made[0].options == (A, B)


def test_a_skipped_step_makes_another_lane():
    made = lanes({"x": [A, A], "y": [None, A]}, frozenset())
    assert [lane.names for lane in made] == [("x",), ("y",)]
    assert [lane.first for lane in made] == [(True, False), (False, True)]


def test_warm_parameters_are_never_first():
    made = lanes({"x": [A, A], "y": [A, A]}, frozenset({"y"}))
    assert [lane.first for lane in made] == [(True, False), (False, False)]


def test_the_first_step_with_momentum_makes_the_buffer():
    (lane,) = lanes({"x": [NO_MOMENTUM, None, A, NO_MOMENTUM, A]}, frozenset())
    assert lane.first == (False, False, True, False, False)
    (lane,) = lanes({"x": [NO_MOMENTUM] * 3}, frozenset())
    assert not any(lane.first)


def test_one_history_object_for_many_parameters():
    shared = [A] * 3
    (lane,) = lanes({f"p{i}": shared if i % 2 else list(shared) for i in range(6)}, frozenset())
    assert lane.names == tuple(f"p{i}" for i in range(6))


def test_no_parameters_have_no_lanes():
    assert lanes({}, frozenset()) == []
