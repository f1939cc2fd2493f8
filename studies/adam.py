"""Networks trained with AdamW: does a derivative predict removals once the root of the second moment is smoothed?

The claim under test: *smoothing that root in the derivative alone makes exact attribution of AdamW-trained networks
predict removals nearly perfectly*, without a change of anybody's training. The protocols, fixed before any of their
numbers were seen:

**A**, one image left out. MLP 784-16-16-10, ReLU and GELU, torch's initialisation; the first 6,000 MNIST images, pixels
/ 255; one epoch, batch 64, 94 steps; AdamW, betas .9 and .95, eps 1e-8, no decay, constant rate 1e-3, 1e-4 or 1e-5.
Truth: each of 200 images (the same for all seeds) left out of its batch, mean over the rest, same order. Queries: the
mean loss of the first 500 test images, and the losses of the first 100 of them. Predictions have their batch's mean
contribution subtracted; two rows say what they were without.

**T**, networks of other tables. MNIST, 3,000 images; the MLP 1024-64-10 with ReLU and with GELU, 3 epochs; LeNet-5, and
LeNet-5 with GELU and average pooling, 4 epochs; batch 64, AdamW with torch's defaults, rate 1e-3. Truth: 30 random
groups of 10 % and 30 of 2 % left out with weight 0. Queries: the mean loss of the first 2,000 test images, and the
losses of the first ten.

**D**, a small GPT. 2 layers, 4 heads, width 64, blocks of 64 characters (0.11 million parameters); the first 4,096
blocks of Shakespeare, batch 32, 400 steps, no dropout; AdamW, betas .9 and .99, decay .1 on matrices only, clipping at
1, warm-up over 10 % and cosine down to a tenth, rate 1e-3. Truth of *this run*: random groups of 10 % and of 1 % left
out with weight 0. Truth of *the data*: networks trained on random halves, 200 steps, with initialisation and order of
their own. Queries: the mean loss of the first 50 test blocks, and the losses of these blocks. 60 groups, 60 halves and
50 blocks are the goal; rows say how many there were.

Estimators: exact with smoothing 0, .001, .01, .1 and 1, as a share of the mean second moment of all coordinates, and of
each tensor's own mean; ggn and none, with .01 and with 0; exact averaged over four replays without a tenth; influence
functions (Gauss-Newton, damping .1) at the end and over five checkpoints; TracIn over ten; TRAK of the library dattri
at the trained weights, 2,048 columns. Nothing is tuned but the smoothing, on seed 100 of A and T, which no table has.
Reported seeds: 0, 1 and 2 of A; 0 of T and D.

Ceilings: the first third of the groups retrained from initial weights changed by one rounding; the changes of two
halves of a group, summed, against the whole (10 %); the same groups left out of a run with the next seed; for *the
data*, the same halves with other seeds.

Figures: LDS (Spearman over the groups) of the mean loss, with a 90 % bootstrap interval over groups, and of the single
queries (their mean); slope of actual on predicted changes of the mean loss, and the median one of the single queries.
"""
