"""Integrations: training loops of other frameworks, recorded without changing them.

Each works through the Recorder. Importing hydragrad imports no framework; each module here imports its own.

transformers     record: a Hugging Face Trainer, in two lines
lightning        RecordingCallback: a Lightning Trainer, by one more callback
skorch           RecordingCallback: a skorch net, by one more callback
sequence_losses  per-sample losses of Hugging Face models, from their logits
same_loss        the loss that a framework descends is a reduction of the recorded one
indexed_loader   a loader that remembers the samples of its batches
needed           a framework that is not installed is named, with what to install
"""
