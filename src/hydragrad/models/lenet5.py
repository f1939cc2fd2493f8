"""LeNet-5 with ReLU and max-pooling."""

from torch import Tensor, nn
from torch.nn import functional as F


class LeNet5(nn.Module):
    """LeNet-5: 5×5 convolutions to 6, 16 and 120 channels, then fully connected 84 and the logits.

    The forward takes float (batch, channels, 32, 32) and returns logits (batch, classes).
    61,706 parameters with 1 channel and 10 classes; 62,006 with 3 channels.

    Args:
        channels: Channels of the images.
        classes: Number of logits.

    Source: LeCun et al. 1998; ReLU, max-pooling and the full connection from 6 to 16 channels as in Chen et
    al. 2021.
    """

    def __init__(self, *, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)  # a module, so that hooks can observe it
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.conv3 = nn.Conv2d(16, 120, 5)
        self.fc1 = nn.Linear(120, 84)
        self.fc2 = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (batch, classes)."""
        x = self.pool(F.relu(self.conv1(images)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.conv3(x)).flatten(1)
        logits: Tensor = self.fc2(F.relu(self.fc1(x)))
        return logits
