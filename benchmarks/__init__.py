"""Speed and memory side by side, one file per question; ratios within one run, and no tests.

costs     recording and every kind of attribution, against plain training
vocabulary peak memory with a large vocabulary, all logits at once or in chunks
text      a small GPT: every kind of attribution, against plain training
tracking  a tracked step, against a plain step
formats   what smaller rows lose in accuracy
solves    iterations of conjugate gradients by preconditioner, and what self-influence finds
checks    what the checks cost
frozen    what frozen batch statistics lose in accuracy
on_paper  what a run too large for one machine would cost, reckoned from these
many      many networks or many queries at once
peers     the same job by other libraries
"""
