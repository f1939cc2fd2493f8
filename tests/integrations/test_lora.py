"""LoRA: a frozen base and trained adapters, recorded by the Trainer's adapter and in a loop; the base is saved once."""

import pytest
import torch
from safetensors import safe_open

import hydragrad as hg

pytest.importorskip("peft", reason="the peft extra is not installed")
pytest.importorskip("transformers", reason="the transformers extra is not installed")

from peft import LoraConfig, get_peft_model

from hydragrad.errors import RunDamaged
from hydragrad.integrations.sequence_losses import sequence_losses
from hydragrad.integrations.transformers import record
from integrations.differences import along_two_directions
from integrations.trainers import SAMPLES, bert, build_trainer, data, gpt2, padded, written_out

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")  # peft's own


def adapted(name):
    """A tiny model with adapters whose second factors are no zeros, as after some training."""
    model = bert() if name == "bert" else gpt2()
    targets = ["query", "value"] if name == "bert" else ["c_attn"]
    torch.manual_seed(2)
    kind = {"task_type": "SEQ_CLS"} if name == "bert" else {"task_type": "CAUSAL_LM", "fan_in_fan_out": True}
    options = {"r": 2, "lora_alpha": 4, "init_lora_weights": False, "target_modules": targets}
    return get_peft_model(model, LoraConfig(**kind, **options)).double()


def columns(items):
    return padded([{name: value for name, value in item.items() if name != "text"} for item in items])


def loop(model, batches, watch=None, weights=None):
    """Two epochs over fixed batches, clipped."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    train_set = data("gpt2")
    for indices in batches:
        batch = columns([train_set[index] for index in indices])
        if watch is not None:
            with watch(optimizer).step(indices) as step:
                update(model, optimizer, step.losses(batch), len(indices))
        else:
            update(model, optimizer, written_out(model, batch)[0] * weights[indices], len(indices))
    return model


def update(model, optimizer, losses, count):
    optimizer.zero_grad()
    (losses.sum() / (4 * count)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path, model = tmp_path_factory.mktemp("lora") / "run", adapted("gpt2")
    batches = [part.tolist() for part in torch.arange(SAMPLES).split(4)] * 2
    recorders = []

    def watch(optimizer):
        if not recorders:
            options = {"collate": columns, "checkpoint_every": 1}
            recorders.append(
                hg.Recorder(path, model, optimizer, sequence_losses(model), data("gpt2"), **options).open()
            )
        return recorders[0]

    loop(model, batches, watch)
    recorders[0].close()
    run = hg.Recording(path, adapted("gpt2"), sequence_losses(model), data("gpt2"), collate=columns)
    return run, batches


def test_contributions_of_adapters_are_derivatives_of_real_retrainings(recorded):
    run, batches = recorded

    def retrained(weights):
        model = loop(adapted("gpt2"), batches, weights=weights).eval()
        return written_out(model, columns(data("gpt2", 5, seed=9)))[0].mean().item()

    directions, expected = along_two_directions(retrained, SAMPLES)
    scores = hg.attribute(run, hg.mean_loss(data("gpt2", 5, seed=9)), curvature="hessian", smoothing=0)
    torch.testing.assert_close(scores.values[0] @ directions.T, expected, rtol=1e-5, atol=1e-9)


def parameters_in(path):
    with safe_open(path, framework="pt") as file:
        return {name for name in file.keys() if name.startswith("parameters/")}  # noqa: SIM118 - not a dict


def test_checkpoints_hold_the_frozen_base_once(recorded):
    run, _ = recorded
    files = sorted((run.path / "checkpoints").glob("*.safetensors"))
    assert len(files) == len(run.steps) + 1
    first, *later = map(parameters_in, files)
    trained = {name for name in first if "lora" in name}
    assert trained and len(trained) < len(first)
    assert all(names == trained for names in later)
    assert run.final.parameters.keys() == {name.removeprefix("parameters/") for name in first}


def test_a_base_that_was_altered_is_noticed(recorded):
    run, _ = recorded
    files = sorted((run.path / "checkpoints").glob("*.safetensors"))
    whole = files[0].read_bytes()
    try:
        files[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(RunDamaged, match=r"step-00000000\.safetensors"):
            hg.Recording(run.path, run.model, run.loss, run.train_set, collate=run.collate_fn).checkpoint(3)
    finally:
        files[0].write_bytes(whole)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_trainer_with_adapters_is_recorded(name, tmp_path):
    plain = build_trainer(name, tmp_path, adapted(name))
    plain.train()
    trainer = build_trainer(name, tmp_path, adapted(name))
    with record(trainer, tmp_path / "run", checkpoint_every=2) as opened:
        trainer.train()
    for one, other in zip(plain.model.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    run = opened.recording()
    files = sorted((run.path / "checkpoints").glob("*.safetensors"))
    assert all(len(parameters_in(file)) < len(parameters_in(files[0])) for file in files[1:])
    scores = hg.attribute(run, hg.mean_loss(data(name, 5, seed=9)), curvature="hessian")
    assert scores.evidence.replay_exact and scores.values.abs().min() > 0


def test_the_head_of_an_adapted_model_is_taken_in_chunks():
    model, batch = adapted("gpt2"), columns(data("gpt2", 5))
    losses = [sequence_losses(model, chunk)(model, batch) for chunk in (None, 3)]
    gradients = [torch.autograd.grad(one.sum(), [p for p in model.parameters() if p.requires_grad]) for one in losses]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(losses[0], losses[1])
