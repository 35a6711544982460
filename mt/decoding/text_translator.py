"""Translation of text by any search: the steps before and after the search.

    text --segmentation--> parts --tokenizer--> segments --search--> translations --joined--> text

A subclass has the model: `Translator` that of a run, `CTranslate2Translator` that of an export.
Texts are split and joined by mt/decoding/segmentation.py.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, Self

from mt.config.choices import Normalization
from mt.config.schema import Config, SearchConfig
from mt.data.normalization import Normalizer, describe_characters, is_blank
from mt.data.source_stats import SourceStats
from mt.data.tags import (
    Prefix,
    choose_tags,
    describe_default_language,
    language_ids,
    tag_ids,
)
from mt.data.text import chunked
from mt.data.tokenizer import Tokenizer
from mt.decoding.segment_search import BatchedSearch, SourceSegment
from mt.decoding.segmentation import TextPart, TextSplitter, join_translations
from mt.decoding.target_prefix import encode_target_prefix
from mt.decoding.translation import OnProgress, TranslatedChunk, Translation
from mt.errors import DataError
from mt.wording import count_of

logger = logging.getLogger(__name__)

CHUNK_SIZE = 512  # lines that are sorted by length and translated together
CHUNK_CHARS = 2**18  # a chunk ends early when its lines have this many characters


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TextTranslator(ABC):
    """Translates texts: splits and encodes them, and joins the translations that a search finds."""

    src_tokenizer: Tokenizer
    tgt_tokenizer: Tokenizer
    search: SearchConfig
    max_length: int  # of a source segment in tokens, eos included, as in training
    normalization: Normalization = "none"
    source_stats: SourceStats | None = None  # of the training text; None: unknown
    split_lines: bool = True  # False: split only texts of more than max_length tokens
    on_progress: OnProgress | None = None  # called after each batch of segments
    src_lang: str = "?"
    tgt_lang: str = "?"  # the default target language
    # The id of the tag of each target language. Empty for a model of one target language, because
    # that has no tag.
    ids_by_language: Mapping[str, int] = field(default_factory=dict)

    @property
    @abstractmethod
    def max_positions(self) -> int | None:
        """The most tokens that the model has positions for; None: any number."""

    @property
    @abstractmethod
    def segment_search(self) -> BatchedSearch:
        """The search for translations of segments."""

    @abstractmethod
    def describe_model(self) -> dict[str, Any]:
        """Return all that translations depend on, besides the texts and the fields of this class.

        The values are JSON values. Two models with the same values give the same translations.
        """

    def with_run_settings(self, config: Config, *, source_stats: SourceStats | None) -> Self:
        """Return a translator with the normalization and the languages of a run's config.

        All code that makes the translator of a run calls this. So a new field with a default is set
        here, in one place; mypy finds a call that lacks a field without a default.
        """
        data = config.data
        return replace(
            self,
            normalization=data.normalization,
            source_stats=source_stats,
            src_lang=data.src_lang,
            tgt_lang=data.tgt_lang,
            ids_by_language=language_ids(tag_ids(choose_tags(data), self.src_tokenizer)),
        )

    @cached_property
    def src_normalizer(self) -> Normalizer:
        """The normalizer of source texts."""
        return Normalizer(self.normalization, self.src_tokenizer)

    @cached_property
    def splitter(self) -> TextSplitter:
        """The splitter of a text into the parts that are translated one by one.

        The text must be normalized by `src_normalizer`, because it is encoded as it is.
        """
        # In an ensemble, another model than the first may have fewer positions.
        longest_source = min(self.max_length, self.max_positions or self.max_length)
        source_stats = self.source_stats if self.split_lines else None
        return TextSplitter(self.src_tokenizer, longest_source, source_stats)

    def language_prefix(self, to: str | None) -> Prefix:
        """Return the tags in front of a source that is translated into the language `to`.

        If `to` is None, the language is `tgt_lang`. Raises DataError for an unknown language.
        """
        language = to or self.tgt_lang
        if language in self.ids_by_language:
            return (self.ids_by_language[language],)
        if self.ids_by_language or language != self.tgt_lang:
            raise DataError(
                f"cannot translate into {language!r}: wanted a target language of this model "
                f"({self._tgt_languages_text})"
            )
        return ()

    def warn_of_default_language(self, to: str | None) -> None:
        """Log a warning if `to` is None and the model has several target languages."""
        if to is None:
            problem = describe_default_language(self.tgt_lang, list(self.ids_by_language))
            if problem is not None:
                logger.warning(problem)

    @property
    def _tgt_languages_text(self) -> str:
        """The target languages for a message, in the order of their tags."""
        return ", ".join(self.ids_by_language) or self.tgt_lang

    def n_best_lists(
        self,
        texts: Sequence[str],
        num_translations: int,
        *,
        to: str | None = None,
        target_prefixes: Sequence[str] | None = None,
    ) -> list[list[Translation]]:
        """Return up to `num_translations` translations of each text, best first.

        Raises DataError for a target language `to` that the model does not have.
        """
        prefix = self.language_prefix(to)
        if target_prefixes is None:
            target_prefixes = [""] * len(texts)
        normalized_texts = [self.src_normalizer(text) for text in texts]
        parts_of_texts = [
            self._split_text_with_target(text, target_prefix, prefix=prefix)
            for text, target_prefix in zip(normalized_texts, target_prefixes, strict=True)
        ]
        segments = [
            SourceSegment(part.src_ids, part.target_prefix)
            for parts in parts_of_texts
            for part in parts
        ]
        translations = iter(self.segment_search.n_best(segments, num_translations))
        return [
            join_translations(text, parts, [next(translations) for _ in parts])
            for text, parts in zip(normalized_texts, parts_of_texts, strict=True)
        ]

    def _split_text_with_target(
        self, text: str, target_prefix: str, *, prefix: Prefix
    ) -> list[TextPart]:
        """Return the parts of a text (see `TextSplitter`), the first with its target prefix.

        A text with a target prefix has one part, unless it is longer than `max_length` tokens.
        Raises DataError for a target prefix that has a line break or is too long for the model.
        """
        if is_blank(target_prefix):
            return self.splitter.split(text, prefix=prefix)
        target_ids = encode_target_prefix(
            target_prefix,
            self.tgt_tokenizer,
            normalization=self.normalization,
            max_positions=self.max_positions,
        )
        parts = self.splitter.for_long_texts_only().split(text, prefix=prefix)
        if not parts:  # a blank text
            return parts
        first = parts[0]._replace(target_prefix=target_ids)
        return [first, *parts[1:]]

    def translate_chunks(
        self,
        lines: Iterable[str],
        *,
        n_best: int = 1,
        chunk_size: int = CHUNK_SIZE,
        to: str | None = None,
        is_line_waiting: Callable[[], bool] | None = None,
        target_prefixes: Iterable[str] | None = None,
    ) -> Iterator[TranslatedChunk]:
        """Yield all lines in order with up to `n_best` translations of each, chunk by chunk.

        A chunk has at most `chunk_size` lines. It ends early when they have CHUNK_CHARS characters,
        or when `is_line_waiting` returns False because the next line is not there yet.

        Memory is bounded: it holds the model, one chunk and one batch of its search. A line takes
        about 70 times its size in bytes while it is translated, or 350 times if its sentences have
        a few letters each, and `read_lines` bounds the size of a line. The number of lines that
        were split is logged at the end.

        `target_prefixes` are read chunk by chunk too. Raises DataError if there are more or fewer
        of them than lines.
        """
        if isinstance(lines, str):
            raise TypeError("translate_chunks takes lines, not a single str")
        counts = _LineCounts()
        chunks = chunked(
            lines, size=chunk_size, num_chars=CHUNK_CHARS, is_item_waiting=is_line_waiting
        )
        remaining_target_prefixes = None if target_prefixes is None else iter(target_prefixes)
        for chunk in chunks:
            target_prefixes_of_chunk = _next_target_prefixes(
                remaining_target_prefixes, len(chunk), num_lines_before=counts.num_lines
            )
            translations = self.n_best_lists(
                chunk, n_best, to=to, target_prefixes=target_prefixes_of_chunk
            )
            for line, line_translations in zip(chunk, translations, strict=True):
                counts.add_line(
                    num_parts=len(line_translations[0].segments),
                    unseen_characters=self.src_normalizer.unseen_characters(line),
                )
            yield TranslatedChunk(chunk, translations)
        if (
            remaining_target_prefixes is not None
            and next(remaining_target_prefixes, None) is not None
        ):
            raise DataError(
                f"wanted one target prefix for each of {counts.num_lines:,} lines, found more"
            )
        counts.log()


def change_search(
    search: SearchConfig,
    *,
    beam_size: int | None = None,
    length_penalty: float | None = None,
    exact: bool = False,
) -> SearchConfig:
    """Return the settings with another beam size and length penalty, where they are not None.

    With `exact`, each text is searched alone.
    """
    changes: dict[str, int | float] = {}
    if beam_size is not None:
        if beam_size < 1:
            raise ValueError(f"wanted a beam_size of at least 1, found {beam_size}")
        changes["beam_size"] = beam_size
    if length_penalty is not None:
        changes["length_penalty"] = length_penalty
    if exact:
        changes["batch_tokens"] = 1
    return search.model_copy(update=changes)


def _next_target_prefixes(
    target_prefixes: Iterator[str] | None, count: int, *, num_lines_before: int
) -> list[str] | None:
    """Return the target prefixes of the next `count` lines. Raises DataError if there are fewer."""
    if target_prefixes is None:
        return None
    found = list(islice(target_prefixes, count))
    if len(found) < count:
        line = num_lines_before + len(found) + 1
        raise DataError(
            f"wanted a target prefix for each line, found none for line {line:,}; "
            "a blank one stands for none"
        )
    return found


@dataclass
class _LineCounts:
    """Counts of lines, for the messages after a text."""

    num_lines: int = 0
    num_split_lines: int = 0
    num_parts: int = 0  # of the split lines
    num_unseen_lines: int = 0  # lines with unseen characters
    # By character, the number of lines that have it.
    unseen_characters: Counter[str] = field(default_factory=Counter)

    def add_line(self, *, num_parts: int, unseen_characters: set[str]) -> None:
        """Count a line."""
        self.num_lines += 1
        if num_parts > 1:
            self.num_split_lines += 1
            self.num_parts += num_parts
        self.unseen_characters.update(unseen_characters)
        if unseen_characters:
            self.num_unseen_lines += 1

    def log(self) -> None:
        """Log how many lines have unseen characters, and how many were split."""
        if self.num_unseen_lines > 0:
            logger.warning(
                f"unseen characters, which have no token, in {self.num_unseen_lines:,} of "
                f"{count_of(self.num_lines, 'line')}: {describe_characters(self.unseen_characters)}"
            )
        if self.num_split_lines > 0:
            logger.info(
                f"translate: split {self.num_split_lines:,} of {count_of(self.num_lines, 'line')} "
                f"into {self.num_parts:,} parts"
            )
