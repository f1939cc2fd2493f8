"""Training: our own loop, which drives any step observers.

train         the public function: the loop with a Recorder in it
loop          the plain loop
augmentation  seeded random augmentation
probe         errors that would come up late in a run, raised before the first step
measuring     losses, logits, mean loss and accuracy of a model on data
"""

from hydragrad.training.augmentation import augmented as augmented
from hydragrad.training.augmentation import random_crop as random_crop
from hydragrad.training.augmentation import random_flip as random_flip
from hydragrad.training.loop import Plan as Plan
from hydragrad.training.loop import batch_losses as batch_losses
from hydragrad.training.loop import fit as fit
from hydragrad.training.loop import under_autocast as under_autocast
from hydragrad.training.measuring import mean_loss_and_accuracy as mean_loss_and_accuracy
from hydragrad.training.probe import require_trainable as require_trainable
from hydragrad.training.train import checkpoint_distance as checkpoint_distance
from hydragrad.training.train import epoch_logs as epoch_logs
from hydragrad.training.train import forecast_bytes as forecast_bytes
from hydragrad.training.train import train as train
