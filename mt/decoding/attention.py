"""Attention weights of one sentence and its translation."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from mt.data.normalization import Normalizer, is_blank
from mt.data.tags import Prefix
from mt.data.tokenizer import Tokenizer
from mt.decoding.translation import Segment
from mt.errors import DataError
from mt.model.recording import attention_weights

if TYPE_CHECKING:  # `Translator.attention` calls this module
    from mt.decoding.translator import Translator

Weights = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SentenceAttention:
    """Attention weights between the tokens of a sentence and those of its translation.

    Each array is (num_layers, num_heads, num_queries, num_keys). The weights of a query add up to
    one. Query i of `decoder` and `cross` is the position that reads `tgt_in[i]` and predicts
    `tgt_out[i]`.
    """

    src_text: str
    tgt_text: str
    src: tuple[str, ...]  # pieces that the encoder reads: tags, text, <eos>
    tgt_in: tuple[str, ...]  # pieces that the decoder reads, <bos> first
    tgt_out: tuple[str, ...]  # pieces that it writes, <eos> last
    encoder: Weights  # from source to source
    decoder: Weights  # from target to the target so far: zero above the diagonal
    cross: Weights  # from target to source
    ids: Segment  # of `src` and `tgt_out`


def attend(
    translator: "Translator", sentence: str, target: str | None = None, *, to: str | None = None
) -> SentenceAttention:
    """Return the attention weights between a sentence and `target`, or its own translation.

    The tag of the target language `to` is in front of the sentence, if it has one. Raises DataError
    for a text that is not one line of text, or is too long.
    """
    ids = _encode_sentence(
        sentence,
        translator.src_tokenizer,
        translator.src_normalizer,
        max_length=translator.max_length,
        what="the sentence",
        prefix=translator.language_prefix(to),
    )
    if target is None:
        # As a whole, although `translate` may translate it sentence by sentence.
        whole = replace(translator, split_lines=False)
        ((best,),) = whole.n_best([sentence], num_translations=1, to=to)
        target = best.text
        # The ids come from the search: encoding the text could split its words differently.
        (segment,) = best.segments
        tgt_ids = segment.tgt
    else:
        tgt_ids = _encode_sentence(
            target,
            translator.tgt_tokenizer,
            translator.tgt_normalizer,
            max_length=translator.max_length,
            what="the target",
        )
    tgt_in_ids = [translator.tgt_tokenizer.bos_id, *tgt_ids[:-1]]
    weights = attention_weights(translator.model, ids, tgt_in_ids)
    return SentenceAttention(
        src_text=sentence,
        tgt_text=target,
        src=tuple(translator.src_tokenizer.token_names(ids, tag_names=translator.tag_names)),
        tgt_in=tuple(translator.tgt_tokenizer.token_names(tgt_in_ids)),
        tgt_out=tuple(translator.tgt_tokenizer.token_names(tgt_ids)),
        encoder=torch.stack(weights.encoder).numpy(),
        decoder=torch.stack(weights.decoder).numpy(),
        cross=torch.stack(weights.cross).numpy(),
        ids=Segment(ids, tgt_ids),
    )


def _encode_sentence(
    text: str,
    tokenizer: Tokenizer,
    normalizer: Normalizer,
    *,
    max_length: int,
    what: str,
    prefix: Prefix = (),
) -> list[int]:
    """Return the token ids of one line of normalized text, with the prefix first and eos last.

    Raises DataError, which calls the text `what`, if it is not valid UTF-8, not a single line,
    blank, or longer than the `max_length` tokens that the model was trained on.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} is not valid UTF-8 at character {error.start + 1}") from error
    if "\n" in text:
        raise DataError(f"{what} has a line break; give one sentence on one line")
    text = normalizer(text)
    if is_blank(text):
        raise DataError(f"{what} is blank; give a sentence with at least one word")
    (text_ids,) = tokenizer.encode([text])
    ids = [*prefix, *text_ids]
    if len(ids) > max_length:
        raise DataError(
            f"{what} has {len(ids):,} tokens; the model was trained on at most {max_length:,}"
        )
    return ids
