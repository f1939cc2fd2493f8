"""A Lightning Trainer with one more callback: it trains what it always trains; contributions are derivatives."""

import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hydragrad as hg
from hydragrad.errors import RecordingMismatch, ReplayMismatch, StepError, Unsupported
from integrations.differences import along_two_directions

pytest.importorskip("lightning", reason="the lightning extra is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl

    from hydragrad.integrations.lightning import RecordingCallback

SAMPLES = 14


class Classifier(pl.LightningModule):
    """As Lightning's examples have it; with `parts` it calls a part of itself."""

    def __init__(self, *, parts=False, dropout=0.0, weights=None):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Dropout(dropout), nn.Linear(6, 3))
        self.parts, self.weights = parts, weights

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x) if self.parts else self(x)
        if self.weights is not None:
            return (F.cross_entropy(logits, y, reduction="none") * self.weights[batch_idx]).mean()
        loss = F.cross_entropy(logits, y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def loss(module, batch):
    x, y = batch
    return F.cross_entropy(module.net(x) if module.parts else module(x), y, reduction="none")


def samples(count=SAMPLES, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator, dtype=torch.float32).to(dtype)
    return TensorDataset(x, torch.randint(3, (count,), generator=generator))


def loader(train_set):
    return DataLoader(train_set, batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(7))


def trainer(folder, *callbacks, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    sizes = {"max_epochs": 3, "accumulate_grad_batches": 2, "gradient_clip_val": 0.3, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **quiet | sizes | options)


def fit(folder, module=None, **options):
    train_set = samples()
    module = Classifier() if module is None else module
    callback = RecordingCallback(folder / "run", loss, train_set, seed=3)
    trainer(folder, callback, **options).fit(module, loader(train_set))
    return module, callback.recording(module)


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "parts"])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_a_recorded_trainer_trains_what_it_trains_unrecorded(precision, parts, tmp_path):
    plain = Classifier(parts=parts)
    trainer(tmp_path, precision=precision).fit(plain, loader(samples()))
    module, run = fit(tmp_path, Classifier(parts=parts), precision=precision)
    for one, other in zip(plain.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    autocast = ("cpu", "bfloat16") if precision == "bf16-mixed" else None
    assert {part.autocast for step in run.steps for part in step.micro_batches} == {autocast}
    assert {len(step.micro_batches) for step in run.steps} == {1, 2}
    assert any(step.clipped for step in run.steps)
    held_out = samples(5, seed=9, dtype=next(module.parameters()).dtype)
    assert hg.attribute(run, hg.mean_loss(held_out)).values.abs().min() > 0


def test_contributions_are_derivatives_of_real_retrainings(tmp_path):
    _, run = fit(tmp_path, precision="64-true")
    held_out = samples(5, seed=9, dtype=torch.float64)
    batches = [part.indices for step in run.steps for part in step.micro_batches]
    per_epoch = len(batches) // 3

    def retrained(weights):
        class Scheduled(Classifier):
            def training_step(self, batch, batch_idx):
                self.weights = {batch_idx: weights[batches[self.current_epoch * per_epoch + batch_idx]]}
                return super().training_step(batch, batch_idx)

        again = Scheduled()
        trainer(tmp_path, precision="64-true").fit(again, loader(samples()))
        return loss(again.double(), held_out.tensors).mean().item()

    directions, expected = along_two_directions(retrained, SAMPLES)
    scores = hg.attribute(run, hg.mean_loss(held_out), curvature="hessian", smoothing=0)
    torch.testing.assert_close(scores.values[0] @ directions.T, expected, rtol=1e-5, atol=1e-9)


class Summed(Classifier):
    """Takes its losses from the callback, and adds them up with weights of the classes."""

    def training_step(self, batch, batch_idx):
        return {"loss": (self.recording.losses(batch) * (1 + batch[1])).sum() / 5}


def test_a_training_step_may_reduce_the_callbacks_losses_as_it_likes(tmp_path):
    train_set, module = samples(), Summed(dropout=0.3)
    module.recording = RecordingCallback(tmp_path / "run", loss, train_set)
    trainer(tmp_path, module.recording).fit(module, loader(train_set))
    callback = vars(module).pop("recording")
    run = callback.recording(module)
    part = run.steps[0].micro_batches[0]
    labels = train_set.tensors[1][part.indices]
    assert part.coefficients == pytest.approx(((1 + labels) / 10).tolist())
    with pytest.raises(StepError, match=r"losses\(\) belongs inside training_step"):
        callback.losses(None)


def test_another_loss_than_the_mean_of_the_recorded_ones_is_refused(tmp_path):
    class Squared(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + 0.1 * sum(p.square().sum() for p in self.parameters())

    with pytest.raises(ReplayMismatch, match=r"losses = callback.losses\(batch\)"):
        fit(tmp_path, Squared())
    assert not (tmp_path / "run").exists()


class Manual(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def test_what_is_not_recorded_is_refused_by_name(tmp_path):
    with pytest.raises(Unsupported, match="manual optimization"):
        fit(tmp_path, Manual(), gradient_clip_val=None, accumulate_grad_batches=1)
    with pytest.raises(Unsupported, match="precision='bf16-true'"):
        fit(tmp_path, precision="bf16-true")
    callback = RecordingCallback(tmp_path / "run", loss, samples())
    with pytest.raises(Unsupported, match=r"several devices without DistributedDataParallel .use strategy='ddp'"):
        others = SimpleNamespace(world_size=2, precision="32-true", strategy=object())
        callback.setup(others, Classifier(), "fit")
    coupled = Classifier()
    coupled.net = nn.Sequential(nn.Linear(8, 3), nn.SyncBatchNorm(3))
    with pytest.raises(Unsupported, match=r"sync_batchnorm=True .leave it out"):
        callback.setup(SimpleNamespace(world_size=2, precision="32-true", strategy=object()), coupled, "fit")
    loaders = [loader(samples()), loader(samples())]
    with pytest.raises(Unsupported, match="one training DataLoader; this one has a list"):
        trainer(tmp_path, RecordingCallback(tmp_path / "run", loss, samples())).fit(Classifier(), loaders)
    assert not (tmp_path / "run").exists()


def test_a_trainer_that_is_resumed_is_recorded_from_its_checkpoint_on(tmp_path):
    class Stops(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise ZeroDivisionError("killed")

    def checkpoints():
        return pl.callbacks.ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1)

    train_set = samples()
    callback = RecordingCallback(tmp_path / "run", loss, train_set, checkpoint_every=100)
    options = {"enable_checkpointing": True}
    with pytest.raises(ZeroDivisionError, match="killed"):
        trainer(tmp_path, callback, checkpoints(), Stops(), **options).fit(Classifier(dropout=0.2), loader(train_set))
    last = max((tmp_path / "checkpoints").glob("*.ckpt"))
    module = Classifier(dropout=0.2)
    callback = RecordingCallback(tmp_path / "run", loss, train_set)
    trainer(tmp_path, callback, checkpoints(), **options).fit(
        module, loader(train_set), ckpt_path=last, weights_only=False
    )
    run = callback.recording(module)
    assert run.completed and len(run.steps) == 9
    assert hg.attribute(run, hg.mean_loss(samples(5, seed=9))).evidence.replay_exact
    with pytest.raises(RecordingMismatch, match="A record begins with a run's first step"):
        trainer(tmp_path, RecordingCallback(tmp_path / "other", loss, train_set)).fit(
            Classifier(), loader(train_set), ckpt_path=last, weights_only=False
        )
