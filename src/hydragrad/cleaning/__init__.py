"""Cleaning: find training samples that harm, remove or relabel them, and measure how well they were detected.

clean         what treating suspects does to the model, really trained
outcomes      trained models, compared sample by sample
remedies      what can be done about suspects
wrong_share   how many labels are wrong
reweigh       loss weights from contributions, really trained
signals       what training shows about each label
suspects      samples ranked by the evidence against their labels, with suggested labels
signals_of_targets what training shows about targets that are more than one class
target_evidence evidence against them, by kind of target
target_suspects samples ranked by it
annotators    labels of several annotators
groups        suspects that agree with one another
duplicates    near duplicates, and training samples in held-out data
model_inputs  what the model is called with, sample by sample
held_out      influence functions of held-out data, saved with the run
suspicion     one number from all evidence against a label
changed_sets  data sets without some samples, or relabelled
items         one value of an item replaced
decisions     labels decided by hand, held to the run that they are about
label_noise   labels flipped on purpose, saved with the run
detection     how well a ranking detects known flips
"""

from hydragrad.cleaning.annotators import Annotations as Annotations
from hydragrad.cleaning.annotators import annotations as annotations
from hydragrad.cleaning.changed_sets import relabelled as relabelled
from hydragrad.cleaning.changed_sets import without as without
from hydragrad.cleaning.clean import AGAIN as AGAIN
from hydragrad.cleaning.clean import AS_GIVEN as AS_GIVEN
from hydragrad.cleaning.clean import KINDS as KINDS
from hydragrad.cleaning.clean import Cleaning as Cleaning
from hydragrad.cleaning.clean import Kind as Kind
from hydragrad.cleaning.clean import clean as clean
from hydragrad.cleaning.decisions import NOT_STATED as NOT_STATED
from hydragrad.cleaning.decisions import Decided as Decided
from hydragrad.cleaning.decisions import Decision as Decision
from hydragrad.cleaning.decisions import Marks as Marks
from hydragrad.cleaning.decisions import checked_marks as checked_marks
from hydragrad.cleaning.detection import area_under_roc as area_under_roc
from hydragrad.cleaning.detection import detection_curve as detection_curve
from hydragrad.cleaning.detection import found_in_first as found_in_first
from hydragrad.cleaning.duplicates import near_duplicates as near_duplicates
from hydragrad.cleaning.groups import suspect_groups as suspect_groups
from hydragrad.cleaning.label_noise import Labels as Labels
from hydragrad.cleaning.label_noise import flip_labels as flip_labels
from hydragrad.cleaning.label_noise import load_labels as load_labels
from hydragrad.cleaning.label_noise import save_labels as save_labels
from hydragrad.cleaning.label_noise import swap_labels as swap_labels
from hydragrad.cleaning.outcomes import Outcome as Outcome
from hydragrad.cleaning.remedies import Remedy as Remedy
from hydragrad.cleaning.reweigh import Reweighting as Reweighting
from hydragrad.cleaning.reweigh import reweigh as reweigh
from hydragrad.cleaning.signals import Signals as Signals
from hydragrad.cleaning.signals import training_signals as training_signals
from hydragrad.cleaning.signals_of_targets import TargetSignals as TargetSignals
from hydragrad.cleaning.signals_of_targets import target_signals as target_signals
from hydragrad.cleaning.suspects import estimated_share as estimated_share
from hydragrad.cleaning.suspects import suspected as suspected
from hydragrad.cleaning.suspects import suspects as suspects
