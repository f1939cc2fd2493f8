"""Cleaning: find training samples that harm, remove or relabel them, and measure how well they were detected.

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
marks         labels decided by hand, as the report saves them
label_noise   labels flipped on purpose, saved with the run
detection     how well a ranking detects known flips
"""

from hydragrad.cleaning.annotators import Annotations as Annotations
from hydragrad.cleaning.annotators import annotations as annotations
from hydragrad.cleaning.changed_sets import relabelled as relabelled
from hydragrad.cleaning.changed_sets import without as without
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
from hydragrad.cleaning.marks import Marks as Marks
from hydragrad.cleaning.marks import read_marks as read_marks
from hydragrad.cleaning.signals import Signals as Signals
from hydragrad.cleaning.signals import training_signals as training_signals
from hydragrad.cleaning.signals_of_targets import TargetSignals as TargetSignals
from hydragrad.cleaning.signals_of_targets import target_signals as target_signals
from hydragrad.cleaning.suspects import estimated_share as estimated_share
from hydragrad.cleaning.suspects import suspects as suspects
