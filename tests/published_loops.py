"""The structures of training scripts that people copy from, on small data: each written once, as its users write it.

A script is a setup (model, optimizer, loss, data) and a loop around a `watcher`, which is the Recorder, or a stand-in
that weighs the samples' losses (`training_loops.Weighted`). Inside a block only `losses` differs from the script.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

import hydragrad as hg
from cases import SEED
from hydragrad.randomness import preserved, seeded
from training_loops import Weighted


@dataclass
class Script:
    """A script, set up afresh by every call of `setup`.

    Attributes:
        loss: Per-sample losses, as its user writes them for hydragrad.
        train_set, held_out: Its data.
    """

    model: nn.Module
    optimizer: Optimizer
    loss: Callable[[Any, Any], Tensor]
    train_set: Dataset[Any]
    held_out: Dataset[Any]
    loop: Callable[["Script", Any], None]


def cross_entropy(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def images(length: int, seed: int, size: int = 8) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(length, 1, size, size, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(3, (length,), generator=generator))


def shuffled(train_set: Dataset[Any], batch_size: int, **options: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(SEED)
    return DataLoader(train_set, batch_size, shuffle=True, generator=generator, **options)


# --- pytorch/examples mnist: Adadelta, StepLR, dropout and max-pooling, negative log-likelihood


class DigitNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = torch.flatten(self.dropout1(F.max_pool2d(x, 2)), 1)
        return F.log_softmax(self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1)


def digits() -> Script:
    def loss(model: Any, batch: Any) -> Tensor:
        return F.nll_loss(model(batch[0]), batch[1], reduction="none")

    def loop(s: Script, watcher: Any) -> None:
        loader, scheduler = shuffled(s.train_set, 6), StepLR(s.optimizer, 1, gamma=0.7)
        for _epoch in range(2):
            s.model.train()
            for indices, batch in hg.indexed(loader):
                with watcher.step(indices) as step:
                    s.optimizer.zero_grad()
                    step.losses(batch).mean().backward()
                    s.optimizer.step()
            scheduler.step()

    model = DigitNet().double()
    return Script(model, torch.optim.Adadelta(model.parameters(), lr=1.0), loss, images(20, 1), images(8, 2), loop)


# --- pytorch/examples imagenet, pytorch-cifar: SGD, BatchNorm, crop and flip in the data set


class Augmented(Dataset[Any]):
    """Crops and flips at random whenever an item is taken."""

    def __init__(self, length: int, seed: int) -> None:
        self.x, self.y = images(length, seed, size=10).tensors

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        top, left, flip = [*torch.randint(3, (2,)).tolist(), bool(torch.rand(()) < 0.5)]
        x = self.x[index, :, top : top + 8, left : left + 8]
        return (x.flip(-1) if flip else x), self.y[index]


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()


def imagenet() -> Script:
    def loop(s: Script, watcher: Any) -> None:
        loader = shuffled(s.train_set, 6)
        scheduler = StepLR(s.optimizer, step_size=1, gamma=0.1)
        for _epoch in range(2):
            s.model.train()
            for indices, batch in hg.indexed(loader):
                with watcher.step(indices) as step:
                    mean = step.losses(batch).mean()
                    s.optimizer.zero_grad()
                    mean.backward()
                    s.optimizer.step()
            s.model.eval()
            scheduler.step()

    model = nn.DataParallel(residual())
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    return Script(model, optimizer, cross_entropy, Augmented(20, 1), images(8, 2), loop)


def cifar() -> Script:
    script = imagenet()

    def loop(s: Script, watcher: Any) -> None:
        loader, scheduler = shuffled(s.train_set, 7), CosineAnnealingLR(s.optimizer, T_max=2)
        for _epoch in range(2):
            s.model.train()
            for indices, (inputs, targets) in hg.indexed(loader):
                with watcher.step(indices) as step:
                    s.optimizer.zero_grad()
                    step.losses([inputs, targets]).mean().backward()
                    s.optimizer.step()
            scheduler.step()

    script.loop = loop
    return script


# --- PyG gcn: Adam with two groups, one graph, the nodes of a mask; predictions are coupled by the graph


class GraphNet(nn.Module):
    def __init__(self, edges: Tensor) -> None:
        super().__init__()
        self.register_buffer("mix", edges)
        self.conv1, self.conv2 = nn.Linear(5, 6, bias=False), nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, p=0.3, training=self.training)
        x = (self.mix @ self.conv1(x)).relu()
        x = F.dropout(x, p=0.3, training=self.training)
        return self.mix @ self.conv2(x)


class Nodes(Dataset[Any]):
    """The numbers of some nodes and their labels."""

    def __init__(self, nodes: range, labels: Tensor) -> None:
        self.nodes, self.labels = nodes, labels

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return self.nodes[index], self.labels[self.nodes[index]]


def graph() -> Script:
    generator = torch.Generator().manual_seed(3)
    near = torch.rand(30, 30, generator=generator, dtype=torch.float64) < 0.15
    near = (near | near.T | torch.eye(30, dtype=torch.bool)).double()
    mix = near / near.sum(1, keepdim=True)
    features = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (30,), generator=generator)

    def loss(model: Any, batch: Any) -> Tensor:
        nodes, targets = batch
        return F.cross_entropy(model(features)[nodes], targets, reduction="none")

    def loop(s: Script, watcher: Any) -> None:
        for _epoch in range(8):
            s.model.train()
            with watcher.step(range(20)) as step:
                s.optimizer.zero_grad()
                step.losses([torch.arange(20), labels[:20]]).mean().backward()
                s.optimizer.step()

    model = GraphNet(mix).double()
    groups = [
        {"params": model.conv1.parameters(), "weight_decay": 5e-4},
        {"params": model.conv2.parameters(), "weight_decay": 0},
    ]
    return Script(model, Adam(groups, lr=0.01), loss, Nodes(range(20), labels), Nodes(range(20, 30), labels), loop)


# --- nanoGPT, minGPT: blocks at random offsets, AdamW in two groups, clipping, accumulation, a schedule by hand


class Blocks(Dataset[Any]):
    """Every offset into a text is a sample: a block, and the same shifted by one."""

    def __init__(self, length: int, seed: int, block: int = 5) -> None:
        self.text = torch.randint(6, (length + block,), generator=torch.Generator().manual_seed(seed))
        self.block = block

    def __len__(self) -> int:
        return len(self.text) - self.block

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.text[index : index + self.block], self.text[index + 1 : index + self.block + 1]


class SmallGPT(nn.Module):
    """Pre-norm, GELU, causal attention by the fused kernel, the head tied to the embedding."""

    def __init__(self, width: int = 8, heads: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(6, width), nn.Embedding(5, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout, self.heads = nn.Dropout(dropout), heads
        self.head = nn.Linear(width, 6, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length = tokens.shape
        x = self.dropout(self.token(tokens) + self.place(torch.arange(length)))
        parts = self.attend(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, -1))
        x = x + self.mlp(self.norm2(x))
        logits: Tensor = self.head(self.norm3(x))
        return logits


def tokens_of(model: Any, batch: Any) -> Tensor:
    """The sum over a block's tokens: what is added up and divided by the number of tokens is the mean over all."""
    logits = model(batch[0])
    return F.cross_entropy(logits.flatten(0, 1), batch[1].flatten(), reduction="none").view(len(batch[1]), -1).sum(1)


def decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


def nano_gpt() -> Script:
    def loop(s: Script, watcher: Any) -> None:
        generator = torch.Generator().manual_seed(SEED)
        micro_batches, steps, warm_up = 3, 5, 2
        for iteration in range(steps):
            rate = 0.02 * min(1.0, (iteration + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * iteration / steps))
            for group in s.optimizer.param_groups:
                group["lr"] = rate
            for micro_batch in range(micro_batches):
                offsets = torch.randint(len(s.train_set), (4,), generator=generator)
                x, y = (torch.stack(part) for part in zip(*(s.train_set[int(i)] for i in offsets), strict=True))
                with watcher.step(offsets) as step:
                    loss = step.losses((x, y)).sum() / y.numel() / micro_batches
                    loss.backward()
                    if micro_batch == micro_batches - 1:
                        nn.utils.clip_grad_norm_(s.model.parameters(), 0.7)
                        s.optimizer.step()
                        s.optimizer.zero_grad(set_to_none=True)

    model = SmallGPT().double()
    optimizer = AdamW(decay_groups(model), lr=0.02, betas=(0.9, 0.95), fused=True)
    return Script(model, optimizer, tokens_of, Blocks(20, 1), Blocks(8, 2), loop)


def mini_gpt() -> Script:
    script = nano_gpt()

    def loop(s: Script, watcher: Any) -> None:
        sampler = RandomSampler(
            s.train_set, replacement=True, num_samples=30, generator=torch.Generator().manual_seed(SEED)
        )
        for indices, (x, y) in hg.indexed(DataLoader(s.train_set, 5, sampler=sampler)):
            with watcher.step(indices) as step:
                loss = step.losses([x, y]).sum() / y.numel()
                s.model.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(s.model.parameters(), 1.0)
                s.optimizer.step()

    script.loop = loop
    return script


# --- timm: Nesterov, warm-up, label smoothing, accumulation, clipping, an average of the weights next to them


def timm() -> Script:
    def loss(model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1, reduction="none")

    def loop(s: Script, watcher: Any) -> None:
        loader = shuffled(s.train_set, 4, drop_last=True)
        averaged = AveragedModel(s.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        scheduler = LambdaLR(s.optimizer, lambda update: min(1.0, (update + 1) / 2))
        for _epoch in range(2):
            s.model.train()
            s.optimizer.zero_grad()
            for number, (indices, batch) in enumerate(hg.indexed(loader)):
                with watcher.step(indices) as step:
                    (step.losses(batch).mean() / 2).backward()
                    if (number + 1) % 2 == 0 or number + 1 == len(loader):
                        nn.utils.clip_grad_norm_(s.model.parameters(), 0.5)
                        s.optimizer.step()
                        s.optimizer.zero_grad()
                averaged.update_parameters(s.model)
                if (number + 1) % 2 == 0:
                    scheduler.step()

    model = residual()
    noted = [group | {"lr_scale": 1.0} for group in decay_groups(model)]
    optimizer = SGD(noted, lr=0.1, momentum=0.9, nesterov=True)
    return Script(model, optimizer, loss, Augmented(20, 1), images(8, 2), loop)


# --- Pytorch-UNet: RMSprop with much momentum, plateau, clipping, dicts of image and mask, cross-entropy and Dice


class Masks(Dataset[Any]):
    def __init__(self, length: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(length, 1, 8, 8, generator=generator, dtype=torch.float64)
        self.mask = (self.x + 0.3 * torch.randn(self.x.shape, generator=generator) > 0)[:, 0].double()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.x[index], "mask": self.mask[index]}


class SmallUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.up = nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu(self.norm(self.down(x)))
        deep = self.up(F.relu(self.middle(F.max_pool2d(wide, 2))))
        logits: Tensor = self.head(torch.cat([wide, deep], 1))[:, 0]
        return logits


def unet() -> Script:
    def loss(model: Any, batch: Any) -> Tensor:
        logits, mask = model(batch["image"]), batch["mask"]
        entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").mean((1, 2))
        shares = torch.sigmoid(logits)
        common, both = (shares * mask).sum((1, 2)), shares.sum((1, 2)) + mask.sum((1, 2))
        return entropy + 1 - (2 * common + 1e-6) / (both + 1e-6)

    def loop(s: Script, watcher: Any) -> None:
        scheduler = ReduceLROnPlateau(s.optimizer, "max", patience=1)
        for epoch in range(2):
            s.model.train()
            for indices, batch in hg.indexed(shuffled(s.train_set, 2)):
                batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
                with watcher.step(indices) as step:
                    mean = step.losses(batch).mean()
                    s.optimizer.zero_grad(set_to_none=True)
                    mean.backward()
                    nn.utils.clip_grad_norm_(s.model.parameters(), 1.0)
                    s.optimizer.step()
            scheduler.step(1.0 - epoch)

    model = SmallUNet().double().to(memory_format=torch.channels_last)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, weight_decay=1e-8, momentum=0.9)
    return Script(model, optimizer, loss, Masks(12, 1), Masks(6, 2), loop)


# --- contrastive pairs: cross-entropy over the other samples of the batch


def pairs() -> Script:
    def loss(model: Any, batch: Any) -> Tensor:
        first, second = (F.normalize(model(part), dim=1) for part in batch)
        return F.cross_entropy(5 * first @ second.T, torch.arange(len(first)), reduction="none")

    def data(length: int, seed: int) -> TensorDataset:
        x = torch.randn(length, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return TensorDataset(x, x + 0.3 * torch.randn_like(x))

    def loop(s: Script, watcher: Any) -> None:
        for _epoch in range(2):
            for indices, batch in hg.indexed(shuffled(s.train_set, 5, drop_last=True)):
                with watcher.step(indices) as step:
                    s.optimizer.zero_grad()
                    step.losses(batch).mean().backward()
                    nn.utils.clip_grad_norm_(s.model.parameters(), 1.0)
                    s.optimizer.step()

    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    with preserved():
        torch.manual_seed(5)
        train_set, held_out = data(20, 1), data(6, 2)
    return Script(model, AdamW(model.parameters(), lr=0.01, fused=True), loss, train_set, held_out, loop)


# --- a frozen base with low-rank adapters


class Adapted(nn.Module):
    """A frozen linear layer, and a product of two thin matrices next to it."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / 4)
        self.b = nn.Parameter(torch.randn(base.out_features, rank) / 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x) + x @ self.a.T @ self.b.T
        return result


def adapters() -> Script:
    script = nano_gpt()
    model = SmallGPT().double()
    model.requires_grad_(False)
    model.attend, model.project = Adapted(model.attend), Adapted(model.project)
    model.double()

    def loop(s: Script, watcher: Any) -> None:
        scheduler = LambdaLR(s.optimizer, lambda step: 1 - step / 10)
        for _epoch in range(2):
            for indices, batch in hg.indexed(shuffled(s.train_set, 5)):
                with watcher.step(indices) as step:
                    (step.losses(batch).sum() / batch[1].numel()).backward()
                    s.optimizer.step()
                    scheduler.step()
                    s.optimizer.zero_grad()

    return Script(model, AdamW(model.parameters(), lr=0.01), tokens_of, script.train_set, script.held_out, loop)


SCRIPTS: dict[str, Callable[[], Script]] = {
    script.__name__: script
    for script in (digits, imagenet, cifar, graph, nano_gpt, mini_gpt, timm, unet, pairs, adapters)
}


def fresh(name: str) -> Script:
    """Set a script up, the same every time."""
    with seeded(SEED):
        return SCRIPTS[name]()


def record(name: str, path: Path) -> hg.Recording:
    """Run a script under a recorder."""
    script = fresh(name)
    start = copy.deepcopy(script.model)
    with (
        seeded(SEED),
        hg.Recorder(path, script.model, script.optimizer, script.loss, script.train_set, seed=SEED) as watcher,
    ):
        script.loop(script, watcher)
    return hg.Recording(path, start, script.loss, script.train_set)


def retrain(name: str, weights: Tensor) -> Script:
    """Run it without one, with a weight on every sample's loss."""
    script = fresh(name)
    with seeded(SEED):
        script.loop(script, Weighted(script.loss, script.model, script.optimizer, weights))
    return script
