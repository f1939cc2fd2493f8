"""Checking a setup before it is trained: two steps on a copy, and what they show.

check    the public function
setup    what would be trained, and private copies of it
parts    the parts of a setup, looked at one by one
steps    the two steps, and how long they take
trial    their recording, and how the cost of one more step is measured
modes    every way to ask about the training, taken on the two steps
sizes    memory and disk
refused  an error as an entry of a table
checked  what was found, as values and as tables
"""

from hydragrad.checking.check import check as check
from hydragrad.checking.checked import Checked as Checked
from hydragrad.checking.checked import Mode as Mode
from hydragrad.checking.checked import Part as Part
from hydragrad.checking.refused import Refusal as Refusal
