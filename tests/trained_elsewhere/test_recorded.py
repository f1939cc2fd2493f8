"""What repeats the steps of a training is refused by name where checkpoints are left."""

import pytest

import hydragrad as hg
from hydragrad.errors import Unsupported
from trained_elsewhere.states import data, loss, network, trained_states

QUERY = hg.mean_loss(data(12, 1))
FUNCTIONS = {
    "attribute": lambda checkpoints: hg.attribute(checkpoints, QUERY),
    "hypergradients": hg.hypergradients,
    "counterfactual": lambda checkpoints: hg.counterfactual(checkpoints, [[0]], QUERY),
    "verify": lambda checkpoints: hg.verify(checkpoints, hg.influence(checkpoints, QUERY)),
    "smoothness": hg.smoothness,
    "approximation_error": hg.approximation_error,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_repeat_steps_say_what_they_need(name):
    checkpoints = hg.Checkpoints(trained_states(), network(), loss, data(24, 0))
    with pytest.raises(Unsupported, match=rf"hg.{name} needs a recorded run, .*hg.train or hg.Recorder"):
        FUNCTIONS[name](checkpoints)
