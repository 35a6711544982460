"""Searches for translations of encoded segments: by beam search, sampling or minimum Bayes risk.

Segments of similar length are searched together. This module works on models and token ids;
mt/decoding/segmentation.py splits texts into segments.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mt.config.schema import SearchConfig
from mt.data.batch_plan import group_by_length
from mt.data.text import LINE_ENDS
from mt.data.tokenizer import Tokenizer
from mt.decoding.ensemble import EnsembleState, EnsembleStep
from mt.decoding.minimum_bayes_risk import MinimumBayesRisk
from mt.decoding.sampling import Sampling, SamplingOptions
from mt.decoding.search import BeamSearch, GenerationOptions, Hypothesis, Strategy, generate
from mt.decoding.target_prefix import PrefixState, PrefixStep
from mt.decoding.translation import OnProgress, Segment, Translation, TranslationProgress
from mt.device import oom_as_device_error
from mt.errors import TrainingError
from mt.model.transformer import Memory, Transformer

CPU_ENCODER_BATCH_SIZE = 32  # sentences
# A search for an n-best list that lacks translations is repeated with twice the beam, up to these
# limits. The second one bounds time and memory.
MAX_WIDER_SEARCHES = 2
MAX_WIDER_BEAM_SIZE = 100
SEARCH_OUT_OF_MEMORY = "to translate: wanted a smaller beam, or search.batch_tokens in the config"

# A translation has a space in place of a line end. Single bytes that end a line are not generated,
# but several bytes, or a piece of the training text, can be a line end too.
_LINE_END = re.compile(f"[{LINE_ENDS}]")


class SourceSegment(NamedTuple):
    """Token ids of a source, and those that its translation begins with."""

    ids: Sequence[int]
    target_prefix: Sequence[int] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchedSearch(ABC):
    """Finds the translations of segments by beam search, many of similar length at a time.

    A subclass has the model, and searches one batch.
    """

    tgt_tokenizer: Tokenizer
    settings: SearchConfig
    max_positions: int | None  # the most tokens that the model has positions for; None: any number
    on_progress: OnProgress | None = None  # called after each batch

    @abstractmethod
    def search_batch(
        self, segments: Sequence[SourceSegment], num_hypotheses: int
    ) -> list[list[Hypothesis]]:
        """Return one to `num_hypotheses` hypotheses of each segment, best first.

        In beam search, `num_hypotheses` is the beam size. In sampling, it is the number of samples.
        """

    def n_best(
        self, segments: Sequence[SourceSegment], num_translations: int
    ) -> list[list[Translation]]:
        """Return up to `num_translations` translations of each segment, best first."""
        found = self._search_different_texts(segments, num_translations)
        return [translations[:num_translations] for translations in found]

    def _search_different_texts(
        self, segments: Sequence[SourceSegment], num_translations: int
    ) -> list[list[Translation]]:
        """Return translations with different texts for each segment, best first, by beam search.

        Several hypotheses can be encodings of one text, or the beam can be smaller than
        `num_translations`. If fewer different texts are found, the search is repeated with twice
        the beam. The best translation stays the same, so others with a higher score are left out.
        """
        beam_size = self.settings.beam_size
        results = self._search(segments, beam_size, on_progress=self.on_progress)
        found = [_merge_equal_texts(translations) for translations in results]
        for _ in range(MAX_WIDER_SEARCHES):
            incomplete = [i for i in range(len(found)) if len(found[i]) < num_translations]
            beam_size *= 2
            if not incomplete or beam_size > MAX_WIDER_BEAM_SIZE:
                break
            wider = self._search([segments[i] for i in incomplete], beam_size)
            for i, more in zip(incomplete, wider, strict=True):
                best = found[i][0]
                others = [translation for translation in more if translation.score <= best.score]
                found[i] = _merge_equal_texts([*found[i], *others])
        return found

    def _search(
        self,
        segments: Sequence[SourceSegment],
        num_hypotheses: int,
        *,
        on_progress: OnProgress | None = None,
    ) -> list[list[Translation]]:
        """Return the translations of each segment (`num_hypotheses`: see `search_batch`)."""
        translations: list[list[Translation]] = [[] for _ in segments]
        lengths = np.array([len(segment.ids) for segment in segments])
        num_segments_done = 0
        num_tokens_done = 0
        batch_tokens = self.settings.batch_tokens // num_hypotheses
        for batch in group_by_length(lengths, batch_tokens=batch_tokens):
            results = self.search_batch([segments[index] for index in batch], num_hypotheses)
            for index, hypotheses in zip(batch, results, strict=True):
                translations[index] = self._read_hypotheses(segments[index], hypotheses)
            num_segments_done += len(batch)
            num_tokens_done += int(lengths[batch].sum())
            if on_progress is not None:
                fraction = num_tokens_done / int(lengths.sum())
                on_progress(TranslationProgress(num_segments_done, len(segments), fraction))
        return translations

    def length_limits(self, segments: Sequence[SourceSegment]) -> list[int]:
        """Return how many tokens the translation of each segment may have, eos included.

        After a target prefix, there is always room for `max_length_offset` tokens and eos.
        """
        offset = self.settings.max_length_offset
        limit = self.max_positions
        lengths = []
        for segment in segments:
            length = max_target_length(self.settings, len(segment.ids))
            if segment.target_prefix:
                length = max(length, len(segment.target_prefix) + offset + 1)
            if limit is not None:
                length = min(length, limit)
            lengths.append(length)
        return lengths

    def _read_hypotheses(
        self, source: SourceSegment, hypotheses: Sequence[Hypothesis]
    ) -> list[Translation]:
        """Return the hypotheses of one segment as translations.

        Raises TrainingError when the search found none, because no probability is finite.
        """
        if hypotheses[0].log_prob == -math.inf:
            raise TrainingError(
                "the model's probabilities are not finite: its training diverged "
                "(choose another checkpoint)"
            )
        texts = self.tgt_tokenizer.decode([hypothesis.ids for hypothesis in hypotheses])
        translations = []
        for text, hypothesis in zip(texts, hypotheses, strict=True):
            segment = Segment(list(source.ids), [*hypothesis.ids, self.tgt_tokenizer.eos_id])
            text = _LINE_END.sub(" ", text)
            translations.append(
                Translation(text, hypothesis.score, hypothesis.log_prob, (segment,))
            )
        return translations


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentSearch(BatchedSearch):
    """Finds the translations of segments by a model, or by several as an ensemble."""

    models: tuple[Transformer, ...] = field(kw_only=False)
    sampling: SamplingOptions | None = None  # None: beam search
    mbr: MinimumBayesRisk | None = None  # chooses among samples; None: take them as they are

    @torch.inference_mode()
    def n_best(
        self, segments: Sequence[SourceSegment], num_translations: int
    ) -> list[list[Translation]]:
        """Return up to `num_translations` translations of each segment, best first."""
        if self.mbr is not None:
            samples = self._search(segments, self.mbr.num_samples, on_progress=self.on_progress)
            return [
                _rank_by_risk(own_samples, self.mbr)[:num_translations] for own_samples in samples
            ]
        if self.sampling is not None:
            return self._search(segments, num_translations, on_progress=self.on_progress)
        return super().n_best(segments, num_translations)

    @oom_as_device_error(SEARCH_OUT_OF_MEMORY)
    def search_batch(
        self, segments: Sequence[SourceSegment], num_hypotheses: int
    ) -> list[list[Hypothesis]]:
        """Return the hypotheses of each segment, searched as one batch."""
        sources = [segment.ids for segment in segments]
        strategy: Strategy
        if self.sampling is None:
            strategy = BeamSearch(num_hypotheses)
        else:
            strategy = Sampling(self.sampling, num_samples=num_hypotheses, sources=sources)
        caches = [model.start(encode(model, sources)) for model in self.models]
        target_prefixes = [segment.target_prefix for segment in segments]
        return generate(
            PrefixStep(EnsembleStep(self.models)),
            PrefixState(EnsembleState(caches), target_prefixes),
            len(segments),
            strategy=strategy,
            bos_id=self.tgt_tokenizer.bos_id,
            eos_id=self.tgt_tokenizer.eos_id,
            options=GenerationOptions(
                length_penalty=self.settings.length_penalty,
                max_lengths=self.length_limits(segments),
                device=self.models[0].output_weight.device,
                forbidden_ids=self.tgt_tokenizer.forbidden_ids,
            ),
        )


def max_target_length(search: SearchConfig, source_length: int) -> int:
    """Return how many tokens the translation of a source may have; both lengths include eos."""
    return math.ceil(search.max_length_factor * source_length) + search.max_length_offset


def pad(model: Transformer, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of ids as one padded tensor (batch, length) on the device of the model."""
    tensors = [torch.tensor(row) for row in rows]
    padded = pad_sequence(tensors, batch_first=True, padding_value=model.pad_id)
    return padded.to(model.output_weight.device)


def encode(model: Transformer, sources: Sequence[Sequence[int]]) -> Memory:
    """Run the encoder of a model on source ids.

    A CPU encodes a few sentences at a time. Neighbors have similar lengths, so this computes less
    padding.
    """
    batch_size = CPU_ENCODER_BATCH_SIZE
    if model.output_weight.is_cuda:
        batch_size = len(sources)
    longest = max(len(source) for source in sources)
    states = []
    masks = []
    for start in range(0, len(sources), batch_size):
        memory = model.encode(pad(model, sources[start : start + batch_size]))
        num_padding = longest - memory.mask.size(3)
        states.append(F.pad(memory.states, (0, 0, 0, num_padding)))
        masks.append(F.pad(memory.mask, (0, num_padding)))
    return Memory(torch.cat(states), torch.cat(masks))


def _merge_equal_texts(translations: Iterable[Translation]) -> list[Translation]:
    """Return the best translation of each text, best first."""
    best_by_text: dict[str, Translation] = {}
    for translation in sorted(translations, key=lambda translation: -translation.score):
        best_by_text.setdefault(translation.text, translation)
    return list(best_by_text.values())


def _rank_by_risk(samples: Sequence[Translation], mbr: MinimumBayesRisk) -> list[Translation]:
    """Return the different samples of one segment, those with the least risk first.

    Their scores are their mean utilities.
    """
    most_probable = {sample.text: sample for sample in _merge_equal_texts(samples)}
    ranked = mbr.rank([sample.text for sample in samples])
    return [most_probable[text]._replace(score=utility) for text, utility in ranked]
