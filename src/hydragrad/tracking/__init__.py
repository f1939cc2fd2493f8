"""Hypergradients of single training samples, for queries thought of later.

hypergradients  the store of a recorded run, by replay
tracker         Tracker: the same online, while the user trains
online          the rows of a run that is under way
store           Store: rows, the trained model, contributions
facts           what a store holds
new_store       the beginning of a store: format, projection, a table that fits
growing_store   a store on disk whose rows grow
unfinished      finishing a store, or opening it as it was interrupted
answers         gradients of queries against rows, in blocks
options         choices that both share
step_batch      a step's data, fetched when first needed
step_gradients  per-sample gradients of a step that somebody else makes
schedule        options known in advance: one accumulator online
resuming        where a resumed loop continues
rows            rows while they grow
"""

from hydragrad.tracking.answers import TopContributions as TopContributions
from hydragrad.tracking.hypergradients import hypergradients as hypergradients
from hydragrad.tracking.schedule import planned as planned
from hydragrad.tracking.store import Store as Store
from hydragrad.tracking.tracker import Tracker as Tracker
