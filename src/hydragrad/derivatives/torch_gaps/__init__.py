"""What torch's own rules lack.

batch_norm     BatchNorm as a differentiable formula
byte_labels    labels of dtype uint8
checkpointing  activation checkpointing, left out
compiled       compiled models, as they were before
padding        embeddings' padding rows as constants
twins          functions written out, whose derivatives torch lacks
recurrent      recurrent layers by kernels that have a forward-mode rule
"""
