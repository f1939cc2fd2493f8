"""Hypergradients of single training samples, for queries that come later.

hypergradients  the store of a recorded run, by replay
shards          the same in shards, filled anywhere and joined
tracker         Tracker: the same online, while the user trains
online          the rows of a run that is under way
store           Store: rows, the trained model, contributions
answers         contributions: gradients of queries times rows, in blocks
options         choices that both share
schedule        options known in advance: one accumulator online

query_gradients    gradients of queries in the columns of rows
top_contributions  the samples that matter most to each query
step_batch         a step's data, fetched when first needed
step_gradients     per-sample gradients of a step that somebody else makes
replayed_step      what rows take from a step of a replay
resuming           where a resumed loop continues

facts          what a store holds, as its file says it
store_files    the files of a finished store, each held to its checksum
new_store      a table that is known to fit
growing_store  an unfinished store on disk, read again
unfinished     stores made of growing rows
rows           rows while they grow
"""

from hydragrad.tracking.answers import TopContributions as TopContributions
from hydragrad.tracking.hypergradients import hypergradients as hypergradients
from hydragrad.tracking.schedule import planned as planned
from hydragrad.tracking.store import Store as Store
from hydragrad.tracking.tracker import Tracker as Tracker
