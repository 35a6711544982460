"""Scoring of given translations: the log-probability of each token, by the model.

The decoder reads the target and predicts each of its tokens (teacher forcing). Search adds up the
same numbers, so a translation gets the log-probability that its search reported.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mt.data.batch_plan import group_by_length
from mt.data.normalization import is_blank, normalize
from mt.data.tags import Prefix
from mt.decoding.ensemble import mean_log_probs
from mt.decoding.segment_search import pad
from mt.decoding.text_translator import CHUNK_SIZE
from mt.decoding.translation import Segment, Target, Translation
from mt.device import oom_as_device_error
from mt.errors import TrainingError
from mt.model.transformer import Transformer

if TYPE_CHECKING:  # `Translator.score` calls this module
    from mt.decoding.translator import Translator

logger = logging.getLogger(__name__)

# A pair with a side of more than this many times `max_length` tokens is not scored: it is probably
# a mistake in the file, and memory grows with the square of the length.
LENGTH_LIMIT_FACTOR = 10

CHUNK_LOGITS = 2**23  # logits that are in memory at once: those of some tokens


class TokenScore(NamedTuple):
    """A target token with its log-probability, given the source and the tokens before it."""

    piece: str  # as SentencePiece writes it, with U+2581 for a space; or <eos>
    log_prob: float  # natural logarithm


class PairScore(NamedTuple):
    """The log-probability of a target, given its source, by the model.

    Without tokens, a log_prob of 0 stands for two blank texts, and one of -inf for a pair that is
    too long to be scored.
    """

    log_prob: float  # the sum over all tokens; natural logarithm
    tokens: tuple[TokenScore, ...]  # each segment of a translation ends in its <eos>


def score_pairs(
    translator: "Translator", pairs: Iterable[tuple[str, Target]], *, prefix: Prefix = ()
) -> Iterator[PairScore]:
    """Yield the score of each pair (see `Translator.score`); the sources get the prefix of tags.

    Memory holds one chunk of pairs. A pair that is too long is named with its number from 1 in a
    warning.
    """
    numbered_pairs = enumerate(pairs, start=1)
    while chunk := list(islice(numbered_pairs, CHUNK_SIZE)):
        segments_of_pairs = [_segments(translator, number, pair, prefix) for number, pair in chunk]
        all_segments = [segment for segments in segments_of_pairs for segment in segments or ()]
        token_scores = iter(score_segments(translator, all_segments))
        for segments in segments_of_pairs:
            if segments is None:
                yield PairScore(-math.inf, ())
                continue
            tokens = [token for _ in segments for token in next(token_scores)]
            yield PairScore(sum(token.log_prob for token in tokens), tuple(tokens))


@oom_as_device_error("to score: wanted a smaller search.batch_tokens in the config")
def score_segments(translator: "Translator", segments: Sequence[Segment]) -> list[list[TokenScore]]:
    """Return the target tokens of each segment with their log-probabilities.

    Segments of similar length are scored together. Raises TrainingError when a log-probability is
    not finite.
    """
    tokenizer = translator.tgt_tokenizer
    scores: list[list[TokenScore]] = [[] for _ in segments]
    lengths = np.array([max(len(segment.src), len(segment.tgt)) for segment in segments])
    for batch in group_by_length(lengths, batch_tokens=translator.search.batch_tokens):
        targets = [segments[index].tgt for index in batch]
        log_probs = target_log_probs(
            translator.models,
            src=pad(translator.model, [segments[index].src for index in batch]),
            tgt_in=pad(translator.model, [[tokenizer.bos_id, *tgt[:-1]] for tgt in targets]),
            tgt_out=pad(translator.model, targets),
        )
        for index, tgt, row in zip(batch, targets, log_probs.tolist(), strict=True):
            names = tokenizer.token_names(tgt)
            scores[index] = [
                TokenScore(name, log_prob)
                for name, log_prob in zip(names, row[: len(tgt)], strict=True)
            ]
            if not all(math.isfinite(token.log_prob) for token in scores[index]):
                raise TrainingError(
                    "the model's probabilities are not finite: its training diverged "
                    "(choose another checkpoint)"
                )
    return scores


@torch.inference_mode()
def target_log_probs(
    models: Sequence[Transformer], *, src: Tensor, tgt_in: Tensor, tgt_out: Tensor
) -> Tensor:
    """Return the log-probability of each token of `tgt_out`: float32 (batch, tgt_length).

    All three tensors are padded ids, long (batch, length). Position i of `tgt_in` is the token
    before position i of `tgt_out`. The values at padding mean nothing. Several models are an
    ensemble.
    """
    # Of each model: (batch * tgt_length, d_model)
    states = [model(src, tgt_in).flatten(0, 1) for model in models]
    targets = tgt_out.flatten()[:, None]
    chunk_size = max(1, CHUNK_LOGITS // len(models[0].output_weight))  # tokens
    chunks = []
    for start in range(0, len(targets), chunk_size):
        chunk = slice(start, start + chunk_size)
        log_probs = [
            model.logits(own_states[chunk]).float().log_softmax(dim=-1).gather(1, targets[chunk])
            for model, own_states in zip(models, states, strict=True)
        ]
        chunks.append(mean_log_probs(log_probs))
    return torch.cat(chunks).view(tgt_out.shape)


def _segments(
    translator: "Translator", number: int, pair: tuple[str, Target], prefix: Prefix
) -> list[Segment] | None:
    """Return the ids of a pair, in several segments if a search split it.

    Two blank texts have no segments. None for a pair that is too long, which gets a warning.
    """
    src, tgt = pair
    if isinstance(tgt, Translation):
        return list(tgt.segments)
    # Without the replacements of characters: the target is scored as it stands.
    tgt = normalize(tgt, translator.normalization)
    if is_blank(src) and is_blank(tgt):
        return []
    (src_ids,) = translator.src_tokenizer.encode([translator.src_normalizer(src)])
    (tgt_ids,) = translator.tgt_tokenizer.encode([tgt])
    src_ids = [*prefix, *src_ids]
    num_tokens = max(len(src_ids), len(tgt_ids))
    limit = LENGTH_LIMIT_FACTOR * translator.max_length
    if translator.max_positions is not None:
        limit = translator.max_positions
    if num_tokens > limit:
        logger.warning(f"line {number}: {num_tokens:,} tokens, over {limit:,}: not scored")
        return None
    return [Segment(src_ids, tgt_ids)]
