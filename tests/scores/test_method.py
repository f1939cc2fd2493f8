"""A method: what it refuses, and how it is written in Python, for people and in file names."""

import pytest

from hydragrad.errors import QueryError
from hydragrad.scores import Method
from hydragrad.scores.method import TRAININGS

METHODS = [
    (Method.of(), "none", {"curvature": "none"}, "none", "curvature='none'"),
    (
        Method.of("ggn", damping=0.5, replays=2),
        "ggn-damping0.5-replays2",
        {"curvature": "ggn", "damping": 0.5, "replays": 2},
        "ggn, damping 0.5, 2 replays",
        "curvature='ggn', damping=0.5, replays=2",
    ),
    (
        Method.of("hessian", replays=[4, 5], drop=0.25),
        "hessian-replays4,5-drop0.25",
        {"curvature": "hessian", "replays": [4, 5], "drop": 0.25},
        "hessian, 2 replays, drop 0.25",
        "curvature='hessian', replays=[4, 5], drop=0.25",
    ),
    (
        Method.of("hessian", smoothing=0.0, replays=1),
        "hessian-smoothing0-replays1",
        {"curvature": "hessian", "smoothing": 0.0, "replays": 1},
        "hessian, smoothing 0, 1 replay",
        "curvature='hessian', smoothing=0.0, replays=1",
    ),
]


@pytest.mark.parametrize(("method", "file", "options", "words", "python"), METHODS)
def test_a_method_has_one_form_for_each_reader(method, file, options, words, python):
    assert method.in_file_names == file
    assert method.options == options
    assert method.in_words == words
    assert method.in_python == python
    assert Method.of(**options) == method == eval(f"Method.of({python})")


def test_a_number_of_replays_stands_for_the_first_ones():
    assert Method.of("ggn", replays=3).replays == (0, 1, 2)
    assert Method.of("ggn", replays=[5, 1]).replays == (5, 1)
    assert Method.of("ggn", replays=3) == Method(curvature="ggn", replays=(0, 1, 2))


def test_its_cost_is_a_pass_over_every_replay():
    for curvature, trainings in TRAININGS.items():
        assert Method.of(curvature).trainings == trainings
    assert Method.of("ggn", replays=4).trainings == 4 * TRAININGS["ggn"]


def test_more_replays_cover_fewer():
    four = Method.of("ggn", replays=4)
    assert four.covers(four) and four.covers(Method.of("ggn", replays=2)) and four.covers(Method.of("ggn"))
    assert not Method.of("ggn").covers(four)
    for other in (Method.of("hessian"), Method.of("ggn", damping=0.1), Method.of("ggn", smoothing=0.0)):
        assert not four.covers(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature": "fisher"}, "one of none, hessian, ggn, got 'fisher'"),
        ({"damping": 0.1}, "damping is added to the curvature"),
        ({"curvature": "ggn", "damping": -0.1}, "damping must be finite and not negative, got -0.1"),
        ({"curvature": "ggn", "damping": float("nan")}, "damping must be finite and not negative, got nan"),
        ({"smoothing": -1.0}, "smoothing must be finite and not negative, or None .*got -1.0"),
        ({"smoothing": float("inf")}, "smoothing must be finite and not negative, or None .*got inf"),
        ({"replays": 2}, "replays= averages sweeps with curvature"),
        ({"curvature": "ggn", "replays": -1}, r"replays must not be negative .*got replays \[-1\]"),
        ({"curvature": "ggn", "replays": [0, -2]}, r"replays must not be negative .*got replays \[0, -2\]"),
        ({"curvature": "ggn", "replays": 2, "drop": 0.0}, "drop must be a share between 0 and 1, got .*drop 0.0"),
        ({"curvature": "ggn", "replays": 2, "drop": 1.0}, "drop must be a share between 0 and 1, got .*drop 1.0"),
    ],
)
def test_a_method_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(QueryError, match=message):
        Method.of(**options)
    if isinstance(options.get("replays", ()), tuple):
        with pytest.raises(QueryError, match=message):
            Method(**options)
