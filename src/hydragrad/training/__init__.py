"""Training: our own loop, driving any step observers.

train  the public function: the loop with a Recorder in it
loop   the plain loop
"""

from hydragrad.training.loop import Plan as Plan
from hydragrad.training.loop import fit as fit
from hydragrad.training.train import epoch_logs as epoch_logs
from hydragrad.training.train import train as train
