"""Attribute your own model in your own training loop: three added lines, marked `# added`."""

import tempfile

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hydragrad as hg


def loss(model, batch):  # per-sample losses, shape (batch,); calls the model once
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


digits = load_digits()
images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
labels[:50] = (labels[:50] + 1) % 10  # the first fifty labels are wrong
train_set, held_out = TensorDataset(images[:600], labels[:600]), TensorDataset(images[600:], labels[600:])

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loader = DataLoader(train_set, batch_size=32, shuffle=True)
folder = tempfile.mkdtemp()

with hg.Recorder(f"{folder}/run", model, optimizer, loss, train_set) as recorder:  # added
    for _ in range(8):
        for indices, batch in hg.indexed(loader):  # added
            with recorder.step(indices):  # added
                optimizer.zero_grad()
                loss(model, batch).mean().backward()
                optimizer.step()

run = hg.Recording(f"{folder}/run", model, loss, train_set)
query = hg.mean_loss(held_out, "held-out loss")
scores = hg.attribute(run, query, curvature="ggn", labels=True)
suspects = hg.suspects(run, scores, held_out=query)
page = hg.report(run, scores, f"{folder}/report.html", suspects=suspects)

found_share = (suspects["sample"].head(50) < 50).mean()
print(suspects.head(), f"\n{found_share:.0%} of the 50 most harmful samples have one of the 50 wrong labels\n{page}")
assert found_share > 0.5
