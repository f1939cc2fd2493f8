"""Optimizer steps as values: each rule has the step, its tangent and its transpose, as pure functions.

rule               StepRule: what the library knows of one torch optimizer
rules              RULES: torch's classes and their rules
sgd                torch.optim.SGD
adam               torch.optim.Adam and AdamW
nadam              torch.optim.NAdam
radam              torch.optim.RAdam
adamax             torch.optim.Adamax
rmsprop            torch.optim.RMSprop
adagrad            torch.optim.Adagrad
adadelta           torch.optim.Adadelta
adafactor          torch.optim.Adafactor
muon               torch.optim.Muon
asgd               torch.optim.ASGD
moments            what optimizers begin a step with: the decayed gradient, means of squares
roots              roots that optimizers divide by
together           several optimizers of one model, as one
own                register_optimizer: rules of the user's own optimizers
own_check          a registered step held to the real optimizer
by_autograd        rules whose tangent and transpose are derived from a pure step
histories          parameters that share one rule and one sequence of options
closed_form        the closed form without curvature: kappa_t
interval_products  the same, lazily: the steps that a sample sat out as one product
flat               one step of all parameters, laid out in one vector
transforms         what happens between backward() and step(): clipping and scaling
"""

from hydragrad.steps.by_autograd import tangent_of as tangent_of
from hydragrad.steps.by_autograd import transpose_of as transpose_of
from hydragrad.steps.closed_form import coefficients as coefficients
from hydragrad.steps.closed_form import step_map as step_map
from hydragrad.steps.flat import SMOOTHING as SMOOTHING
from hydragrad.steps.flat import Part as Part
from hydragrad.steps.flat import smoothing_of as smoothing_of
from hydragrad.steps.flat import tangent_all as tangent_all
from hydragrad.steps.flat import transpose_all as transpose_all
from hydragrad.steps.histories import History as History
from hydragrad.steps.histories import first_is_like_later as first_is_like_later
from hydragrad.steps.histories import histories as histories
from hydragrad.steps.interval_products import IntervalProducts as IntervalProducts
from hydragrad.steps.own import register_optimizer as register_optimizer
from hydragrad.steps.rule import Cotangent as Cotangent
from hydragrad.steps.rule import Move as Move
from hydragrad.steps.rule import StepPoint as StepPoint
from hydragrad.steps.rule import StepRule as StepRule
from hydragrad.steps.rule import Tangent as Tangent
from hydragrad.steps.rules import RULE_OF_SCHEMA_1 as RULE_OF_SCHEMA_1
from hydragrad.steps.rules import RULES as RULES
from hydragrad.steps.rules import STATES_OF_SCHEMA_1 as STATES_OF_SCHEMA_1
from hydragrad.steps.rules import known_names as known_names
from hydragrad.steps.rules import read_group as read_group
from hydragrad.steps.rules import rule_named as rule_named
from hydragrad.steps.rules import rule_of as rule_of
from hydragrad.steps.rules import states_in_force as states_in_force
from hydragrad.steps.rules import states_of as states_of
from hydragrad.steps.rules import torch_group as torch_group
from hydragrad.steps.together import Together as Together
from hydragrad.steps.transforms import Scale as Scale
from hydragrad.steps.transforms import Transform as Transform
from hydragrad.steps.transforms import tangent_transforms as tangent_transforms
from hydragrad.steps.transforms import transpose_transforms as transpose_transforms
