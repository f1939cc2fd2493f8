"""What one batch yields: per-sample losses, their directional derivatives, gradients of samples, curvature products.

layout       named tensors as one flat vector
leaves       the tensors of nested data
copying      private copies of a model
evaluation   the loss, with a batch of its own for every evaluation
label_dtype  labels of a dtype that torch refuses
label_leaf   the label among them
label_search which of them is the label
held_outputs the model's outputs, held while the batch changes
target       a target that is more than one class a sample
target_search which leaf is the target
loss_module  model and per-sample loss as one function of parameters and buffers
part_losses  losses of samples made of those of their parts
one_call     the model's one call inside the loss
chunked_head cross-entropy of a large vocabulary, a few positions at a time
point        where one step is differentiated
refusals     models that are refused, with the reason
wrapped      models that several processes train together
stopped      gradients that are stopped on their way
graph        the graph of a loss
kinks        operations whose derivative jumps
coupling     whether the samples of a batch are coupled
moving       a state moved along a random direction
held         derivatives held to the gradient that trained
trusted      a fast path held to the safe one
directional  derivatives of all samples along directions
per_sample   gradients of single samples
layers       rules of single layers
curvature    curvature products and exact tangents
torch_gaps   what torch's own rules lack
"""

# ruff: noqa: I001 imports grouped by meaning

# A batch, a model and its loss
from hydragrad.derivatives.held_outputs import floating_outputs as floating_outputs
from hydragrad.derivatives.layout import Layout as Layout
from hydragrad.derivatives.copying import copy_of as copy_of
from hydragrad.derivatives.evaluation import Evaluator as Evaluator
from hydragrad.derivatives.evaluation import OwnBatch as OwnBatch
from hydragrad.derivatives.evaluation import OwnBatches as OwnBatches
from hydragrad.derivatives.leaves import tensor_leaves as tensor_leaves
from hydragrad.derivatives.label_dtype import naming_label_dtype as naming_label_dtype
from hydragrad.derivatives.label_leaf import Label as Label
from hydragrad.derivatives.label_leaf import labels_by_value as labels_by_value
from hydragrad.derivatives.label_leaf import plain_cross_entropy as plain_cross_entropy
from hydragrad.derivatives.label_leaf import possible_logits as possible_logits
from hydragrad.derivatives.label_search import find_label as find_label
from hydragrad.derivatives.label_search import probes as probes
from hydragrad.derivatives.target import Target as Target
from hydragrad.derivatives.target_search import find_target as find_target
from hydragrad.derivatives.loss_module import Batch as Batch
from hydragrad.derivatives.loss_module import LossModule as LossModule
from hydragrad.derivatives.loss_module import PerSampleLoss as PerSampleLoss
from hydragrad.derivatives.loss_module import check_losses as check_losses
from hydragrad.derivatives.part_losses import LossOfParts as LossOfParts
from hydragrad.derivatives.part_losses import Terms as Terms
from hydragrad.derivatives.part_losses import loss_of_parts as loss_of_parts
from hydragrad.derivatives.part_losses import one_number_a_part as one_number_a_part
from hydragrad.derivatives.part_losses import require_parts as require_parts
from hydragrad.derivatives.part_losses import terms_of as terms_of
from hydragrad.derivatives.one_call import require_one_call as require_one_call
from hydragrad.derivatives.chunked_head import chunked_cross_entropy as chunked_cross_entropy
from hydragrad.derivatives.chunked_head import head_calls as head_calls
from hydragrad.derivatives.point import Point as Point
from hydragrad.derivatives.refusals import require_differentiable as require_differentiable
from hydragrad.derivatives.wrapped import bare_model as bare_model

# Derivatives of all samples along directions
from hydragrad.derivatives.directional.forward_mode import Directional as Directional
from hydragrad.derivatives.directional.forward_mode import OfParts as OfParts
from hydragrad.derivatives.directional.forward_mode import directional_derivatives as directional_derivatives
from hydragrad.derivatives.directional.forward_mode import works_at_once as works_at_once
from hydragrad.derivatives.per_sample.along import directional_one_by_one as directional_one_by_one
from hydragrad.derivatives.directional.labels import label_derivatives as label_derivatives
from hydragrad.derivatives.directional.labels import require_cross_entropy as require_cross_entropy
from hydragrad.derivatives.directional.layer_dots import LayerDots as LayerDots
from hydragrad.derivatives.directional.parts import by_sample as by_sample
from hydragrad.derivatives.directional.shared_forward import SharedForward as SharedForward

# Gradients of single samples
from hydragrad.derivatives.per_sample.by_layers import LayerGradients as LayerGradients
from hydragrad.derivatives.per_sample.frozen_statistics import FrozenGradients as FrozenGradients
from hydragrad.derivatives.per_sample.one_by_one import sample_gradients as sample_gradients
from hydragrad.derivatives.per_sample.projection import Projector as Projector

# Curvature
from hydragrad.derivatives.curvature.products import CurvatureProducts as CurvatureProducts
from hydragrad.derivatives.curvature.products import CurvatureStep as CurvatureStep
from hydragrad.derivatives.curvature.products import Products as Products
from hydragrad.derivatives.curvature.many_products import VectorisedProducts as VectorisedProducts
from hydragrad.derivatives.curvature.many_products import fastest_products as fastest_products
from hydragrad.derivatives.curvature.reverse_products import ReverseProducts as ReverseProducts
from hydragrad.derivatives.curvature.eigenbasis import Eigenbasis as Eigenbasis
from hydragrad.derivatives.curvature.ekfac import fit_ekfac as fit_ekfac
from hydragrad.derivatives.curvature.zero import ZeroCurvature as ZeroCurvature
from hydragrad.derivatives.curvature.tangents import ExactTangents as ExactTangents
from hydragrad.derivatives.curvature.tangents import Tangents as Tangents
from hydragrad.derivatives.curvature.symmetric import require_symmetric as require_symmetric

# Whether a fast path may be taken
from hydragrad.derivatives.layers.applicable import HooksInapplicable as HooksInapplicable
from hydragrad.derivatives.layers.applicable import why_not_hooks as why_not_hooks
from hydragrad.derivatives.trusted import Comparison as Comparison
from hydragrad.derivatives.trusted import agrees as agrees
from hydragrad.derivatives.trusted import compare_with_safe as compare_with_safe
from hydragrad.derivatives.trusted import tolerance_of as tolerance_of

# Batch statistics
from hydragrad.derivatives.torch_gaps.batch_norm import BatchStatistics as BatchStatistics
from hydragrad.derivatives.torch_gaps.batch_norm import batch_coupled as batch_coupled
from hydragrad.derivatives.torch_gaps.batch_norm import normalises_batches as normalises_batches
from hydragrad.derivatives.torch_gaps.batch_norm import running_statistics as running_statistics
from hydragrad.derivatives.torch_gaps.batch_norm import use_explicit_batch_norm as use_explicit_batch_norm
