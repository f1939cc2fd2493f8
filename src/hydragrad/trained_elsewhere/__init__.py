"""A model that was trained elsewhere: checkpoints are left, and no record of the steps between them.

opened        Checkpoints: states opened with model, loss and training set
state_files   state dicts in files and folders, read without running code
fitting       a state dict held to a model: names, shapes, types
recorded      what needs a recorded run, refused by name
scores_about  scores held to the checkpoints that they are about
"""

from hydragrad.trained_elsewhere.opened import Checkpoints as Checkpoints
from hydragrad.trained_elsewhere.recorded import require_recorded as require_recorded
from hydragrad.trained_elsewhere.scores_about import require_scores_about as require_scores_about
