"""Hypergradients of single training samples, for queries thought of later.

hypergradients  the store of a recorded run, by replay
tracker         Tracker: the same online, while the user trains
online          the rows of a run that is under way
store           Store: rows, the trained model, contributions
answers         gradients of queries against rows, in blocks
options         choices that both share
step_batch      a step's data, fetched when first needed
step_gradients  per-sample gradients of a step that somebody else makes
schedule        options known in advance: one accumulator online
resuming        where a resumed loop continues
unfinished      beginning, resuming and finishing a store
rows            rows while they grow
"""

from hydragrad.tracking.answers import TopContributions as TopContributions
from hydragrad.tracking.hypergradients import hypergradients as hypergradients
from hydragrad.tracking.schedule import planned as planned
from hydragrad.tracking.store import Store as Store
from hydragrad.tracking.tracker import Tracker as Tracker
