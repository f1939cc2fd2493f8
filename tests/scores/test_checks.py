"""A check: its sentence, what it replaces, and the plain dicts that checks once were."""

import pytest

from hydragrad.scores import Check

CHECK = Check(
    name="4 samples left out, random groups",
    kind="random",
    unit="validation loss",
    curvature="hessian",
    size=4,
    groups=3,
    predicted=(0.1, -0.2, 0.3),
    actual=(0.2, -0.1, 0.25),
    lds=1.0,
    lds_interval=(0.5, 1.0),
    lds_per_query=(1.0,),
    scale=1.02,
)

OLD = {
    "curvature": "hessian",
    "size": 4,
    "random": True,
    "groups": 3,
    "queries": 1,
    "slope": None,
    "scale": 1.02,
    "pearson": None,
    "spearman": None,
    "lds": 1.0,
    "lds_interval": [0.5, 1.0],
    "lds_per_query": [1.0],
    "sign_agreement": None,
    "sentence": "Written by an earlier version.",
    "name": "4 samples left out, random groups",
    "unit": "validation loss",
    "predicted": [0.1, -0.2, 0.3],
    "actual": [0.2, -0.1, 0.25],
}


def test_the_dict_of_an_earlier_version_is_read():
    assert Check.read(OLD) == CHECK
    assert (
        Check.read(OLD).sentence
        == "Predicted changes rank removals well (LDS 1.00 [.50, 1.00]) and have the right size."
    )


@pytest.mark.parametrize(
    ("random", "size", "kind"), [(True, 4, "random"), (False, 4, "extremes"), (False, None, "given")]
)
def test_the_kind_of_old_checks_follows_from_their_entries_and_not_from_their_name(random, size, kind):
    old = OLD | {"random": random, "size": size, "name": "anything"}
    assert Check.read(old).kind == kind


def test_a_dict_may_name_the_groups_in_place_of_counting_them():
    check = Check.read({"predicted": [1.0, 2.0], "actual": [1.0, 3.0], "groups": ["the worst", "the best"]})
    assert (check.kind, check.groups, check.group_names) == ("given", 2, ("the worst", "the best"))
    assert Check.read({"predicted": [1.0], "actual": [1.0], "entry of a later version": 1}).groups == 1


def test_fields_are_read_by_name_as_well():
    assert CHECK["lds"] == CHECK.lds
    assert CHECK["sentence"] == CHECK.sentence


def test_a_check_replaces_one_of_the_same_query_kind_and_size():
    assert CHECK.replaces(Check(name="another name", kind="random", unit="validation loss", size=4))
    for other in ({"kind": "extremes"}, {"size": 5}, {"unit": "test loss"}):
        same = {"kind": "random", "size": 4, "unit": "validation loss"}
        assert not CHECK.replaces(Check(**same | other))


@pytest.mark.parametrize(
    ("value", "scale", "expected"),
    [
        (0.95, 1.15, "Predicted changes rank removals well (LDS .95 [.91, .97]) and are 13 % too small."),
        (0.6, 1.01, "Predicted changes rank removals fairly (LDS .60 [.91, .97]) and have the right size."),
        (0.3, 0.001, "Predicted changes rank removals weakly (LDS .30 [.91, .97]) and are 1e+03 times too large."),
        (-0.1, -2.0, "Predicted changes do not rank removals (LDS −.10 [.91, .97]) and say nothing of their size."),
    ],
)
def test_a_check_is_said_in_one_sentence(value, scale, expected):
    assert Check(groups=5, lds=value, lds_interval=(0.91, 0.97), scale=scale).sentence == expected


def test_too_few_groups_are_said_to_be():
    assert "2 groups are too few, or too alike" in Check(groups=2).sentence


def test_an_interval_that_leaves_everything_open_is_said_to():
    wide = Check(groups=5, lds=0.54, lds_interval=(-0.04, 0.86), scale=1.01)
    assert "rank removals fairly (LDS .54 [−.04, .86]; more groups would narrow it) and" in wide.sentence
    assert "more groups" not in Check(groups=5, lds=0.54, lds_interval=(0.1, 0.86), scale=1.01).sentence


def test_the_ceiling_is_said_where_it_was_measured():
    check = Check(groups=5, lds=0.5, scale=1.0, ceiling_lds=0.7, ceiling_interval=(0.6, 0.8))
    assert check.sentence.endswith("ranks these removals with LDS .70: more can't be expected of any score.")
