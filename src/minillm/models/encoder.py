"""The Transformer encoder of BERT (Devlin et al. 2018): post-norm blocks, learned positions, heads.

Dropout acts in training where the configuration asks for it: after the embeddings, after each half
of a block, on the attention weights, before a classifier. Dropping attention weights takes
attention step by step; with attention_probs_dropout_prob=0 training takes the fused operation.
"""

from __future__ import annotations

from typing import Any

import numpy

from minillm import nn, ops
from minillm.arrays import new_generator, xp_of
from minillm.models.encoder_config import EncoderConfig
from minillm.models.encoder_heads import MaskedHead, masked_loss, span_loss, text_loss
from minillm.models.family import ACTIVATIONS
from minillm.models.pretrained import Pretrained
from minillm.quantities import counted
from minillm.tensor import Tensor, checkpoint


class Embeddings(nn.Module):
    """Words, positions and segments, added and normalised."""

    def __init__(self, config: EncoderConfig, position_padding: int | None) -> None:
        super().__init__()
        c = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, c, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(
            config.max_position_embeddings, c, padding_idx=position_padding
        )
        if config.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, c)
        self.LayerNorm = nn.LayerNorm(c, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.has_segments = config.type_vocab_size > 0

    def forward(self, ids: Any, positions: Any, segments: Any) -> Tensor:
        x = self.word_embeddings(ids)
        if segments is not None:
            x = x + self.token_type_embeddings(segments)
        elif self.has_segments:
            x = x + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x + self.position_embeddings(positions)))


class EncoderLayer(nn.Module):
    """Self-attention, then the feed-forward part, each normalised with what it is added to."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        c, eps = config.hidden_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.joint = nn.Linear(c, 3 * c)  # queries, keys and values
        self.projection = nn.Linear(c, c)
        self.attention_norm = nn.LayerNorm(c, eps)
        self.feed_forward = nn.FeedForward(
            c, config.intermediate_size, ACTIVATIONS[config.hidden_act]
        )
        self.output_norm = nn.LayerNorm(c, eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, mask: Any = None) -> Tensor:
        """x (B, T, C); mask (B, 1, 1, T) boolean, True where a position may be seen."""
        if self.dropout.active:
            x = self.attention_norm(x + self.dropout(self.projection(self.mixed(x, mask))))
            return self.output_norm(x + self.dropout(self.feed_forward(x)))
        x = self.attention_norm(self.projection(self.mixed(x, mask), x))
        return self.output_norm(self.feed_forward(x, x))

    def mixed(self, x: Tensor, mask: Any) -> Tensor:
        """What attention gathers, (B, T, C)."""
        width, joint = x.shape[-1], self.joint(x)
        if mask is None and not self.attention_dropout.active:
            return ops.packed_attention(joint, heads=self.heads, causal=False)
        q, k, v = (
            nn.split_heads(joint[..., start : start + width], self.heads)  # (B, H, T, D)
            for start in (0, width, 2 * width)
        )
        if self.attention_dropout.active:
            return nn.merge_heads(nn.attend_dropping(q, k, v, self.attention_dropout, mask=mask))
        return nn.merge_heads(nn.attend(q, k, v, mask=mask, causal=False))


class Encoder(Pretrained):
    """model(ids, mask, segments) gives what the architecture in the configuration returns.

    Hidden states (B, T, C), logits of words (B, T, V), of classes of tokens (B, T, labels) or of
    texts (B, labels), or of each token as the first and the last of a span (B, T, 2). Each family
    sets the class attributes where it differs from BERT. Weights start as in BERT: N(0,
    initializer_range), biases and rows of padding 0; drawn from `seed`.
    """

    dropout_before_pooler = False  # of a classifier of texts
    masked_activation: str | None = None  # of the masked language model's head, hidden_act if None

    def __init__(self, config: EncoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # run each block again in backward instead of keeping its insides
        c = config.hidden_size
        self.embeddings = Embeddings(config, self.position_padding)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layer))
        if config.pooler:
            self.pooler = nn.Linear(c, c)
        if config.task == "masked":
            activation = self.masked_activation or ACTIVATIONS[config.hidden_act]
            self.head = MaskedHead(config, activation)
        elif config.task != "features":
            self.classifier = nn.Linear(c, len(config.labels))
            self.dropout = nn.Dropout(config.head_dropout)
        if not nn.init_skipped():
            self.initialise(seed)

    def initialise(self, seed: int) -> None:
        """Draw all weights anew from `seed`."""
        generator = new_generator(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = self.config.initializer_range
                parameter.data[...] = generator.normal(0.0, std, parameter.shape)
            else:
                parameter.data[...] = 1.0 if name.endswith("weight") else 0.0
        for module in self.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight.data[module.padding_idx] = 0.0

    @property
    def position_padding(self) -> int | None:
        """The row of the position embeddings that stands for padding."""
        return None

    def positions(self, ids: Any) -> Any:
        """The row of the position embeddings for each id."""
        return xp_of(ids).arange(ids.shape[1])

    def features(self, ids: Any, mask: Any = None, segments: Any = None) -> Tensor:
        """Hidden states (B, T, C) for ids (B, T).

        mask (B, T): 1 or True for text, 0 or False for padding, which nobody sees; None: all text.
        segments (B, T): which of the texts in a row an id belongs to; None: all to the first.
        """
        name = self.config.model_type
        if getattr(ids, "ndim", None) != 2:
            raise ValueError(f"{name}: ids of shape {numpy.shape(ids)}, an array (B, T) is needed")
        if segments is not None and not self.config.type_vocab_size:
            raise ValueError(f"{name}: segments given, but this family has none; leave them out")
        for what, given in (("mask", mask), ("segments", segments)):
            if given is not None and numpy.shape(given) != ids.shape:
                raise ValueError(
                    f"{name}: {what} of shape {numpy.shape(given)}, that of the ids, {ids.shape}, "
                    "is needed"
                )
        positions = self.positions(ids)
        if positions.size and positions.max() >= self.config.max_position_embeddings:
            raise ValueError(
                f"{name}: {counted(ids.shape[1], 'token')} given, the model has positions for "
                f"{self.config.context}"
            )
        seen = visible(name, mask)
        x = self.embeddings(ids, positions, segments)
        for layer in self.layers:
            if self.recompute:
                x = checkpoint(lambda x, layer=layer: layer(x, seen), x)
            else:
                x = layer(x, seen)
        return x

    def pooled(self, ids: Any, mask: Any = None, segments: Any = None) -> Tensor:
        """(B, C): what the pooler reads from the first token. RuntimeError where there is none."""
        return self.pool(self.features(ids, mask, segments))

    def pool(self, x: Tensor) -> Tensor:
        if self.config.pooler is None:
            raise RuntimeError(
                f"{self.config.model_type}: {self.config.architecture} has no pooler"
            )
        first = x[:, 0]
        if self.dropout_before_pooler and self.config.task == "sequence":
            first = self.dropout(first)
        return nn.ACTIVATIONS[self.config.pooler](self.pooler(first))

    def forward(self, ids: Any, mask: Any = None, segments: Any = None) -> Tensor:
        x = self.features(ids, mask, segments)
        match self.config.task:
            case "features":
                return x
            case "masked":
                return ops.linear(self.head(x), self.decoder, self.head.bias)
            case "sequence":
                x = self.pool(x)
        return self.classifier(self.dropout(x))

    def logits_at(self, ids: Any, asked: Any, mask: Any = None, segments: Any = None) -> Tensor:
        """Logits of words (n, V) for the n places where `asked` (B, T) is True, of a masked LM."""
        x = self.features(ids, mask, segments)
        return ops.linear(self.head(x[asked]), self.decoder, self.head.bias)

    @property
    def decoder(self) -> Tensor:
        """(V, C): by what a hidden state becomes logits of words."""
        own = self.head.decoder
        return self.embeddings.word_embeddings.weight if own is None else own

    def loss(
        self,
        ids: Any,
        targets: Any,
        mask: Any = None,
        segments: Any = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The loss of the head, in nats where it is a cross-entropy.

        Words or classes of tokens: targets (B, T), -100 is ignored. Classes of texts: targets (B,);
        or, as transformers has it, (B, labels) yes or no if problem_type is
        "multi_label_classification" or the targets are no integers, and (B,) or (B, labels) numbers
        for "regression" or a single label: then a mean of binary cross-entropies, of squares.
        Spans: the places (B, 2) of their first and last token, -100 is ignored. Labels of words
        alone are smoothed.
        """
        task = self.config.task
        if task == "features":
            raise RuntimeError(
                f"{self.config.model_type}: {self.config.architecture} has no loss, "
                "an architecture with a head is needed"
            )
        if task == "masked":
            x = self.features(ids, mask, segments)
            return masked_loss(self.head, x, self.decoder, targets, reduction, label_smoothing)
        return self.loss_of(self(ids, mask, segments), targets, reduction)

    def loss_of(self, logits: Tensor, targets: Any, reduction: str = "mean") -> Tensor:
        """The same from what a head for texts, tokens or spans gave."""
        match self.config.task:
            case "sequence":
                return text_loss(logits, targets, self.config.problem_type, reduction)
            case "span":
                return span_loss(logits, targets, reduction)
        return ops.cross_entropy(logits, targets, reduction=reduction)


def visible(name: str, mask: Any) -> Any:
    """The mask as (B, 1, 1, T) booleans, None where it hides nothing."""
    if mask is None:
        return None
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"{name}: mask holds other numbers, 1 for text and 0 for padding are needed"
        )
    return None if mask.all() else mask.astype(bool)[:, None, None]
