"""Parameters share a history exactly if their optimizer did the same to them at every step."""

from hydragrad.steps import first_is_like_later, histories
from hydragrad.steps.adam import ADAM, AdamOptions
from hydragrad.steps.sgd import RULE, SGDOptions

A, B = SGDOptions(lr=0.1, momentum=0.9), SGDOptions(lr=0.2, momentum=0.9)
NO_MOMENTUM = SGDOptions(lr=0.1)


def cold(*names: str) -> dict[str, bool]:
    return dict.fromkeys(names, False)


def ages(history) -> list:
    return [move and move.age for move in history.moves]


def test_equal_options_share_a_history_in_the_models_order():
    made = histories(RULE, {"x": [A, B], "y": [A, A], "z": [A, B]}, cold("x", "y", "z"))
    assert [history.names for history in made] == [("x", "z"), ("y",)]
    assert tuple(move.options for move in made[0].moves) == (A, B)


def test_a_skipped_step_makes_another_history():
    made = histories(RULE, {"x": [A, A], "y": [None, A]}, cold("x", "y"))
    assert [history.names for history in made] == [("x",), ("y",)]
    assert [ages(history) for history in made] == [[True, False], [None, True]]


def test_warm_parameters_never_create_a_buffer():
    made = histories(RULE, {"x": [A, A], "y": [A, A]}, {"x": False, "y": True})
    assert [ages(history) for history in made] == [[True, False], [False, False]]


def test_the_first_step_with_momentum_creates_the_buffer():
    (history,) = histories(RULE, {"x": [NO_MOMENTUM, None, A, NO_MOMENTUM, A]}, cold("x"))
    assert ages(history) == [False, None, True, False, False]
    (history,) = histories(RULE, {"x": [NO_MOMENTUM] * 3}, cold("x"))
    assert ages(history) == [False] * 3 and history.states == ()


def test_adam_counts_the_steps_that_a_parameter_made():
    step = AdamOptions(lr=0.1)
    made = histories(ADAM, {"x": [step, None, step], "y": [step, None, step]}, {"x": 0, "y": 5})
    assert [ages(history) for history in made] == [[1, None, 2], [6, None, 7]]
    assert made[0].states == ("exp_avg", "exp_avg_sq")


def test_one_sequence_of_options_for_many_parameters_makes_one_history():
    shared = [A] * 3
    names = [f"p{i}" for i in range(6)]
    (history,) = histories(RULE, {f"p{i}": shared if i % 2 else list(shared) for i in range(6)}, cold(*names))
    assert history.names == tuple(names)


def test_no_parameters_have_no_histories():
    assert histories(RULE, {}, {}) == []


def test_a_history_can_be_cut():
    (history,) = histories(RULE, {"x": [A, B, A]}, cold("x"))
    assert history.until(2).moves == history.moves[:2] and history.until(2).names == ("x",)


def test_only_dampening_tells_a_first_step_from_later_ones():
    assert first_is_like_later(RULE, A) and first_is_like_later(RULE, NO_MOMENTUM)
    assert not first_is_like_later(RULE, SGDOptions(lr=0.1, momentum=0.9, dampening=0.1))
    assert not first_is_like_later(ADAM, AdamOptions(lr=0.1))
