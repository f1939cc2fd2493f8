"""hydragrad measures which training samples made a model what it is.

Ask         check: what of a setup can be recorded, and what each mode costs, before it is trained
Record      train, Recorder, indexed, augmented, loss_of_parts, chunked_cross_entropy, register_optimizer: write a run
            directory
Replay      Recording: open it again
Elsewhere   Checkpoints, influence_rows, InfluenceStore: a model of which weights alone are left; rows for later queries
Query       mean_loss, sample_losses, sample_margins, query: what about the model is to be explained
Continue    continuation_loss, token_losses, log_probability, difference: what about a language model is
Attribute   attribute, ensemble, influence, self_influence, tracin, Scores: one number a training sample
Track       Tracker, planned, hypergradients, Store: rows for later queries
Check       verify, counterfactual, smoothness, approximation_error: predicted against measured
Compare     bank, Bank, evaluate, brittleness, top_overlap: any library's scores against real retrainings
Clean       suspects, suspect_groups, near_duplicates, annotations: samples ranked by the evidence against their labels
Treat       clean, reweigh: what treating suspects really does; loss weights from contributions
Mend        export_suspects, import_labels: suspects for the tools in which people mend labels, and what was decided
Show        report: one HTML page
Scale       RayExecutor: the machines of a Ray cluster, which do the work of a call
Errors      errors.HydragradError and its children

Training loops of other frameworks are recorded by `hydragrad.integrations`, and `hydragrad.labelling.cleanlab` has an
issue type for cleanlab's Datalab. What is not listed here is internal.
"""

import lazy_loader

from hydragrad.supported_torch import require_installed

require_installed()
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # imports a name when it is first used
__version__ = "0.1.0"
