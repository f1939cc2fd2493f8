"""A small GPT: a decoder of tokens, with causal attention."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydragrad.errors import DataError, QueryError

INITIAL_STD = 0.02


class GPT(nn.Module):
    """Pre-norm transformer with GELU and no bias, as in nanoGPT.

    The forward takes tokens, int64 (batch, length), and returns logits of the next one, (batch, length, vocabulary).
    106,880 parameters at the default sizes with 65 tokens and blocks of 64; 10.7 million with 6 layers of width 384
    and blocks of 256.

    Args:
        vocabulary: How many tokens there are.
        block_size: Tokens of the longest sequence.
        layers: Blocks of attention and MLP.
        heads: Of each attention; divides the width.
        width: Channels of a token.
        tied: The logits are products with the embeddings of the tokens; otherwise they have weights of their own.
        dropout: Probability in embeddings, attention and residual branches.

    Raises:
        QueryError: Sizes that are no sizes, or a width that is no multiple of the heads.

    Source: Radford et al. 2019, with the initialisation and sizes of A. Karpathy's nanoGPT.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        block_size: int,
        layers: int = 2,
        heads: int = 4,
        width: int = 64,
        tied: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(vocabulary, block_size, layers, heads, width) < 1 or width % heads or not 0 <= dropout < 1:
            raise QueryError(
                f"A GPT needs sizes of at least 1, a width that is a multiple of its heads, and a dropout below 1; got "
                f"layers {layers}, heads {heads}, width {width}, dropout {dropout}. Choose a width of {heads} times "
                f"the width of a head."
            )
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(block_size, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(_Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.token_embedding.weight
        self._initialise(layers)

    def forward(self, tokens: Tensor, *, head: bool = True) -> Tensor:
        """Return the logits, (batch, length, vocabulary).

        Args:
            tokens: int64 (batch, length).
            head: Otherwise return what the head reads, (batch, length, width): for a large vocabulary,
                `chunked_cross_entropy(model(tokens, head=False), model.head.weight, following)`.

        Raises:
            DataError: Sequences longer than the model's blocks.
        """
        length, longest = tokens.shape[1], self.position_embedding.num_embeddings
        if length > longest:
            raise DataError(
                f"This GPT reads sequences of up to {longest:,} tokens, got {length:,}. Cut them, or build it with "
                f"block_size={length}."
            )
        positions = torch.arange(length, device=tokens.device).expand_as(tokens)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        hidden: Tensor = self.norm(self.blocks(x))
        return self.head(hidden) if head else hidden

    def _initialise(self, layers: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # Every block adds twice to the residual stream; so its variance does not grow with the depth.
                depth = math.sqrt(2 * layers) if name.endswith("project.weight") else 1.0
                nn.init.normal_(parameter, std=INITIAL_STD / depth)


class _Block(nn.Module):
    """Attention, then an MLP of four times the width, each after a norm and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attention = _CausalAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.mlp = _MLP(width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        changed: Tensor = x + self.mlp(self.norm2(x))
        return changed


class _CausalAttention(nn.Module):
    """Every token attends to itself and those before it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.probability = heads, dropout
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.query_key_value(x).chunk(3, dim=2)
        )
        dropped = self.probability if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropped)
        projected: Tensor = self.dropout(self.project(attended.transpose(1, 2).flatten(2)))
        return projected


class _MLP(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.activation = nn.GELU()
        self.project = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.dropout(self.project(self.activation(self.expand(x))))
        return changed
