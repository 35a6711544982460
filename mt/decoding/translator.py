"""Texts in, texts out: the trained model, its tokenizers and the search, put together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mt.config.load import load_config
from mt.config.schema import SearchConfig
from mt.data.batching import group_by_length
from mt.data.tokenizer import Tokenizer
from mt.decoding.search import Hypothesis, SearchOptions, beam_search
from mt.device import find_device, oom_as_device_error
from mt.model.kv_cache import DecoderCache
from mt.model.transformer import Memory, Transformer
from mt.storage.checkpoint import find_checkpoint, load_weights
from mt.storage.run_dir import open_run_dir

ENCODED_TOGETHER = 32  # sentences, on a CPU

Alignment = list[tuple[int, int]]  # (source word, target word), from 0, in order


class Segment(NamedTuple):
    """Token ids of a text, or of one part of a long one, and of its translation; eos last in both."""

    src: list[int]
    tgt: list[int]


class Translation(NamedTuple):
    """One hypothesis for one line: `score` ranks it, `log_prob` is the model's own (0 for a blank line)."""

    text: str
    score: float
    log_prob: float
    parts: tuple[Segment, ...] = ()  # what was translated in one piece; none of a blank line
    alignment: Alignment | None = None  # only if it was asked for

    @property
    def num_parts(self) -> int:
        """In how many parts the text was translated."""
        return len(self.parts)


@dataclass(frozen=True, eq=False)
class Translator:
    """Answers each text with its translations; what it answers does not depend on the other texts beside it.

    But for near-ties: the shape of a batch changes the last bits of a sum, and may turn the balance between two
    hypotheses that score the same to six digits
    (`scripts/benchmarks/batch_invariance.py` counts them). A search of one text at a time,
    `batch_tokens=1`, is exact.
    """

    model: Transformer
    src_tokenizer: Tokenizer
    tgt_tokenizer: Tokenizer
    search: SearchConfig
    max_length: int  # source tokens, eos included, that the model has been trained on

    @classmethod
    @oom_as_device_error("to load this model")
    def load(
        cls,
        run_dir: str | Path,
        *,
        checkpoint: str = "best",
        device: str = "auto",
        beam_size: int | None = None,
        length_penalty: float | None = None,
        exact: bool = False,
    ) -> Self:
        """The model of a run directory, in float32. Raises MtError for a directory that holds none.

        `exact` searches each text on its own, so that no bit of a score depends on other texts. It is slower.
        """
        run = open_run_dir(Path(run_dir))
        config = load_config(run.config)
        src, tgt = (Tokenizer.load(path) for path in run.tokenizers(config.tokenizer.joint))
        sizes = {"src_vocab_size": src.vocab_size, "tgt_vocab_size": tgt.vocab_size}
        with torch.device("meta"):  # no memory before the file is known to have these very tensors
            model = Transformer(config.model, **sizes, pad_id=src.pad_id)
        load_weights(model, find_checkpoint(run.checkpoints, checkpoint))
        chosen = {
            "beam_size": beam_size,
            "length_penalty": length_penalty,
            "batch_tokens": 1 if exact else None,
        }
        search = config.search.model_copy(
            update={key: value for key, value in chosen.items() if value is not None}
        )
        return cls(model.eval().to(find_device(device)), src, tgt, search, config.data.max_length)

    def translate(self, texts: Sequence[str]) -> list[str]:
        """The best translation of each text; of a blank text, the empty one."""
        return [translations[0].text for translations in self.n_best(texts)]

    def n_best(self, texts: Sequence[str]) -> list[list[Translation]]:
        """Up to `beam_size` translations of each text, the best first.

        A text of more than `max_length` tokens is translated in parts (see `split`): its k-th translation joins the
        k-th of each part.
        """
        parts = [self.split(text) for text in texts]
        found = iter(self._search([ids for rows in parts for ids in rows]))
        return [_join([next(found) for _ in rows]) for rows in parts]

    @torch.inference_mode()
    def _search(self, rows: Sequence[Sequence[int]]) -> list[list[Translation]]:
        """The translations of each row of source ids, whatever their order."""
        found: list[list[Translation]] = [[] for _ in rows]
        budget = self.search.batch_tokens // self.search.beam_size
        for group in group_by_length(np.array([len(row) for row in rows]), batch_tokens=budget):
            for index, hypotheses in zip(
                group, self._search_batch([rows[i] for i in group]), strict=True
            ):
                texts = self.tgt_tokenizer.decode([hypothesis.ids for hypothesis in hypotheses])
                for text, (ids, log_prob, score) in zip(texts, hypotheses, strict=True):
                    part = Segment(list(rows[index]), [*ids, self.tgt_tokenizer.eos_id])
                    # A carriage return would end a line, or be taken off its end, for many a reader.
                    found[index].append(
                        Translation(text.replace("\r", " "), score, log_prob, (part,))
                    )
        return found

    @oom_as_device_error(
        "to translate: wanted a smaller beam, or search.batch_tokens in the config"
    )
    def _search_batch(self, rows: Sequence[Sequence[int]]) -> list[list[Hypothesis]]:
        model, tokenizer, search = self.model, self.tgt_tokenizer, self.search

        def step(tokens: Tensor, cache: DecoderCache) -> tuple[Tensor, DecoderCache]:
            states, cache = model.decode(tokens.reshape(-1, 1), cache)  # (batch * beam, 1, d_model)
            log_probs = model.logits(states[:, 0]).float().log_softmax(dim=-1)
            return log_probs.view(*tokens.shape, -1), cache

        lengths = [
            math.ceil(search.max_length_factor * len(row)) + search.max_length_offset
            for row in rows
        ]
        if model.max_length is not None:
            lengths = [min(length, model.max_length) for length in lengths]
        max_lengths = torch.tensor(lengths, device=model.output_table.device)
        options = SearchOptions(
            search.beam_size, search.length_penalty, max_lengths, tokenizer.forbidden_ids
        )
        cache = model.start(self._encode(rows))
        return beam_search(
            step,
            cache,
            len(rows),
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            options=options,
        )

    def _encode(self, rows: Sequence[Sequence[int]]) -> Memory:
        """Encode a few rows at a time: neighbours are of like length, so there is less padding to compute."""
        longest = max(map(len, rows))
        size = len(rows) if self.model.output_table.is_cuda else ENCODED_TOGETHER
        memories = [
            self.model.encode(self.pad(rows[start : start + size]))
            for start in range(0, len(rows), size)
        ]
        spare = [longest - memory.mask.size(3) for memory in memories]
        states = [
            F.pad(memory.states, (0, 0, 0, more))
            for memory, more in zip(memories, spare, strict=True)
        ]
        masks = [
            F.pad(memory.mask, (0, more)) for memory, more in zip(memories, spare, strict=True)
        ]
        return Memory(torch.cat(states), torch.cat(masks))

    def pad(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Rows of ids as one tensor (batch, length) where the model is, padded."""
        tensors, model = [torch.tensor(row) for row in rows], self.model
        return pad_sequence(tensors, batch_first=True, padding_value=model.pad_id).to(
            model.output_table.device
        )

    def split(self, text: str) -> list[list[int]]:
        """The source ids of `text` in as few parts as halving takes to fit each into `max_length`; none if it is blank.

        It is cut at the space nearest to the middle, or through the middle of a text without one.
        """
        if not text.strip():
            return []
        (ids,) = self.src_tokenizer.encode([text])
        if len(ids) <= self.max_length or len(text) < 2:
            return [ids]
        middle = len(text) // 2
        spaces = (text.rfind(" ", 1, middle + 1), text.find(" ", middle, len(text) - 1))
        cut = min(
            (space for space in spaces if space > 0),
            key=lambda space: abs(space - middle),
            default=middle,
        )
        return self.split(text[:cut]) + self.split(text[cut:].removeprefix(" "))


def _join(parts: list[list[Translation]]) -> list[Translation]:
    """The translations of a text from those of its parts, rank by rank; a blank text has no parts."""
    joined = [
        Translation(
            text=" ".join(each.text for each in rank),
            score=sum(each.score for each in rank),
            log_prob=sum(each.log_prob for each in rank),
            parts=tuple(part for each in rank for part in each.parts),
        )
        for rank in zip(*parts, strict=False)
    ]
    return joined or [Translation("", 0.0, 0.0)]
