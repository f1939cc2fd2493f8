"""What the report says of the run itself."""

import pytest
from torch.optim import SGD, Adafactor, AdamW

from hydragrad.reports.facts import run_facts
from hydragrad.torch_release import MUON
from recording.toys import build, train


@pytest.mark.parametrize(
    ("optimizer", "name", "options"),
    [
        (lambda weights: SGD(weights, lr=0.1, momentum=0.9), "SGD options", "lr 0.1; momentum 0.9"),
        (lambda weights: AdamW(weights, lr=0.01), "AdamW options", "betas (0.9, 0.999)"),
        (lambda weights: Adafactor(weights, lr=0.01), "Adafactor options", "eps (none, 0.001)"),
        pytest.param(
            lambda weights: MUON([p for p in weights if p.dim() == 2], adjust_lr_fn="match_rms_adamw"),
            "Muon options",
            "adjust_lr_fn match_rms_adamw",
            marks=pytest.mark.skipif(MUON is None, reason="torch has no Muon before 2.9"),
        ),
    ],
)
def test_the_options_of_the_optimizer_are_named(tmp_path, optimizer, name, options):
    model = build()
    facts = dict(run_facts(train(tmp_path / "run", model, optimizer=optimizer(model.parameters()))))
    assert options in facts[name]
