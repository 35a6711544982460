"""Tokenizer: text to token ids and back, with a SentencePiece model."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import sentencepiece

from mt.config.choices import MAX_VOCAB_SIZE
from mt.data.bpe_dropout import Draw, Pieces, SubwordSampler, sample_segments
from mt.data.sentencepiece_model import changes_words_in_context, replaces_characters
from mt.data.text import LINE_ENDS
from mt.errors import TokenizerError

TokenizerKind = Literal["bpe", "unigram"]

PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)
NUM_BYTES = 256

MAX_FILE_SIZE = 32_000_000  # bytes; enough for a model of MAX_VOCAB_SIZE pieces

SPACE_SYMBOL = "\u2581"  # SentencePiece writes it in place of a space and before a text
ESCAPE = "\x10"  # ASCII's "data link escape"

SAMPLES_PER_WORD = 16  # sampled encodings of one word in one call

# `Tokenizer.load` encodes and decodes this text to find out whether a model changes texts. It has
# spaces in all places, a tab, characters that normalization replaces, the name of a control piece,
# and both characters that must be escaped.
ROUND_TRIP_TEXT = f" a  B\t\u00fc\u212b\u4e2d<s> {ESCAPE}{SPACE_SYMBOL} "

# The line ends of one byte, as byte pieces: LF, VT, FF, CR, FS, GS, RS.
LINE_END_BYTES = frozenset(f"<0x{ord(end):02X}>" for end in LINE_ENDS if end.isascii())


class Tokenizer:
    """Lossless encoder and decoder: a SentencePiece model and an escape for U+2581.

    Lossless means that `decode([ids])` for the ids of any text without a newline is exactly that
    text: no normalization, no space lost, bytes for characters that have no piece. Data can then be
    encoded again for each batch (BPE-dropout) from the ids alone, and a score is that of the real
    text. For this, U+2581 must be escaped: SentencePiece writes spaces as U+2581, so it decodes a
    U+2581 of the text to a space.

    No text can produce a control id: "<s>" in a text is encoded as three characters.

    `bpe_dropout` is the probability to skip a merge in sampled encodings (see `sample`).
    """

    pad_id = PAD_ID
    unk_id = UNK_ID
    bos_id = BOS_ID
    eos_id = EOS_ID

    def __init__(self, model: bytes, *, bpe_dropout: float = 0.0) -> None:
        # SentencePiece would print warnings about models that `load` refuses with an error.
        sentencepiece.set_min_log_level(2)
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        self.model = model
        self.bpe_dropout = bpe_dropout
        self.digest = hashlib.sha256(model).hexdigest()
        self.vocab_size = len(self._processor)
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise TokenizerError(
                f"wanted at most {MAX_VOCAB_SIZE:,} pieces, found {self.vocab_size:,}"
            )

        ids = range(self.vocab_size)
        piece_texts = self._processor.id_to_piece(list(ids))
        control_ids = {i for i in ids if self._processor.is_control(i)}
        # The pieces that encode text: all but control ids and the unknown id.
        self.ordinary_pieces = self._find_ordinary_pieces(piece_texts, control_ids)
        self._sampler = SubwordSampler(self.ordinary_pieces, dropout=bpe_dropout)

        self.tag_ids = tuple(sorted(control_ids - {PAD_ID, BOS_ID, EOS_ID}))
        # Ids that a search must not generate: all control ids but eos, and what would break a line.
        newline_ids = {i for i in ids if "\n" in piece_texts[i]}
        line_end_ids = {i for i in ids if piece_texts[i] in LINE_END_BYTES}
        forbidden_ids = {UNK_ID} | (control_ids - {EOS_ID}) | newline_ids | line_end_ids
        self.forbidden_ids = tuple(sorted(forbidden_ids))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model file, from which the other process makes a tokenizer."""
        return partial(type(self), bpe_dropout=self.bpe_dropout), (self.model,)

    @classmethod
    def load(cls, path: Path, *, bpe_dropout: float = 0.0) -> Self:
        """Read a model file.

        Raises TokenizerError for a file that is missing or is not a SentencePiece model, and for a
        model that is not lossless, has other special ids, or cannot be used with `bpe_dropout`.
        """
        try:
            content = _read_model_file(path)
            tokenizer = cls(content, bpe_dropout=bpe_dropout)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: not a tokenizer: {error}") from None
        except OSError as error:
            raise TokenizerError(f"{path}: cannot read the tokenizer: {error.strerror}") from error
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(f"{path}: not a SentencePiece model") from error
        problem = tokenizer._find_incompatibility()
        if problem is not None:
            raise TokenizerError(
                f"{path}: not a tokenizer as `mt tokenizer train` makes them: {problem}"
            )
        return tokenizer

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, with eos as the last."""
        if isinstance(texts, str):
            raise TypeError("encode takes a list of texts, not a single str")
        rows: list[list[int]] = self._processor.encode(
            [escape(text) for text in texts], add_eos=True
        )
        return rows

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Return the ids that each word has after a space or at the start of a text, without eos.

        The words are escaped and have no spaces. Only for a tokenizer that `encodes_words_alone`.
        """
        rows: list[list[int]] = self._processor.encode(list(words))
        return rows

    @cached_property
    def encodes_words_alone(self) -> bool:
        """Whether the ids of a text are those of its words, whatever words are beside them.

        Not for unigram models: rounding of the text's total score can decide between two equally
        likely encodings of a word.
        """
        return self.kind == "bpe" and not changes_words_in_context(self.model)

    def sample(self, texts: Iterable[str], draw: Draw) -> list[list[int]]:
        """Return random encodings of the texts by BPE-dropout, each with eos as the last id.

        They are a pure function of the texts and of the random numbers that `draw` returns. With a
        `bpe_dropout` of 0 they are the plain encodings.

        Texts are encoded word by word, which is possible because no piece contains a space after
        its start. Sampling is slow, so each word gets at most SAMPLES_PER_WORD samples; further
        occurrences of the word take one of these at random.
        """
        if self.bpe_dropout == 0.0:
            return self.encode(list(texts))
        samples_by_word: dict[str, list[list[int]]] = defaultdict(list)
        rows = []
        for text in texts:
            words = escape(text).split(" ") if text else []
            row: list[int] = []
            for word in words:
                samples = samples_by_word[word]
                if len(samples) < SAMPLES_PER_WORD:
                    ids = self._sampler.sample(SPACE_SYMBOL + word, draw)
                    samples.append(ids)
                else:
                    ids = samples[int(draw() * SAMPLES_PER_WORD)]
                row.extend(ids)
            row.append(EOS_ID)
            rows.append(row)
        return rows

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row of ids; pad, bos, eos and tags have no text."""
        decoded = self._processor.decode([list(row) for row in rows])
        return [unescape(text) for text in decoded]

    def piece(self, token_id: int) -> str:
        """Return the text of a token as SentencePiece writes it, with U+2581 for a space."""
        return str(self._processor.id_to_piece(token_id))

    @cached_property
    def kind(self) -> TokenizerKind:
        """The algorithm that chooses the pieces of a text.

        In a BPE model, a piece's score is its negated merge number; in a unigram model, it is a
        log-probability.
        """
        scores = self.ordinary_pieces.scores.values()
        return "bpe" if all(score.is_integer() for score in scores) else "unigram"

    def find_piece(self, piece: str) -> int | None:
        """Return the id of the token that SentencePiece writes as `piece`; None if there is none.

        Control tokens and bytes are found too.
        """
        token_id = int(self._processor.piece_to_id(piece))
        return token_id if self.piece(token_id) == piece else None

    def split_piece(self, piece: str) -> list[int]:
        """Return the tokens into which BPE merges split a piece of another tokenizer.

        A unigram model has a few tokens more for a piece than in a text.
        """
        segments = sample_segments(piece, self.ordinary_pieces, dropout=0.0, draw=lambda: 1.0)
        return self.ordinary_pieces.segment_ids(segments)

    def token_names(
        self, ids: Sequence[int], *, tag_names: Mapping[int, str] | None = None
    ) -> list[str]:
        """Return a name for each token, for people: its piece, or <bos> or <eos>.

        `tag_names` has names for tags, which are called by their pieces otherwise.
        """
        special_names = {BOS_ID: "<bos>", EOS_ID: "<eos>", **(tag_names or {})}
        return [special_names.get(token_id) or self.piece(token_id) for token_id in ids]

    def has_piece(self, character: str) -> bool:
        """Return whether a character has a piece; else it is encoded as its UTF-8 bytes."""
        text = SPACE_SYMBOL if character == " " else escape(character)
        return all(part in self.ordinary_pieces.ids for part in text)

    def _find_ordinary_pieces(self, piece_texts: Sequence[str], control_ids: set[int]) -> Pieces:
        """Return the pieces that encode text; `piece_texts` holds the text of every id."""
        ids: dict[str, int] = {}
        scores: dict[str, float] = {}
        byte_ids: list[int] = []
        for token_id, text in enumerate(piece_texts):
            if self._processor.is_byte(token_id):
                byte_ids.append(token_id)
            elif token_id != UNK_ID and token_id not in control_ids:
                ids[text] = token_id
                scores[text] = self._processor.get_score(token_id)
        return Pieces(ids=ids, scores=scores, byte_ids=tuple(byte_ids))

    def _find_incompatibility(self) -> str | None:
        """Return why mt cannot use this model, which another program may have made, or None."""
        processor = self._processor
        special_ids = (
            processor.pad_id(),
            processor.unk_id(),
            processor.bos_id(),
            processor.eos_id(),
        )
        wanted_ids = (PAD_ID, UNK_ID, BOS_ID, EOS_ID)
        if special_ids != wanted_ids:
            return f"its ids of pad, unk, bos and eos are {special_ids}, not {wanted_ids}"
        if len(self.ordinary_pieces.byte_ids) != NUM_BYTES:
            return "it has no pieces for bytes (byte_fallback), so some characters would be lost"
        if any(SPACE_SYMBOL in text[1:] for text in self.ordinary_pieces.ids):
            return "some of its pieces contain a space between characters (split_by_whitespace)"
        if self.bpe_dropout > 0.0 and self.kind != "bpe":
            return "it is a unigram model, and BPE-dropout needs a BPE model"
        if replaces_characters(processor.serialized_model_proto()):
            return "it changes the text (it has a table that normalizes or denormalizes characters)"
        if self.decode(self.encode([ROUND_TRIP_TEXT])) != [ROUND_TRIP_TEXT]:
            return "it changes the text (normalization, or removal of spaces)"
        return None


def escape(text: str) -> str:
    """Return the text without U+2581, which SentencePiece would take for a space.

    `unescape` gives the text back.
    """
    return text.replace(ESCAPE, ESCAPE + "e").replace(SPACE_SYMBOL, ESCAPE + "s")


def unescape(text: str) -> str:
    """Undo `escape`."""
    return text.replace(ESCAPE + "s", SPACE_SYMBOL).replace(ESCAPE + "e", ESCAPE)


def _read_model_file(path: Path) -> bytes:
    """Return the content of a file; raise TokenizerError, without the path, if it is too large."""
    if path.exists() and not path.is_file():  # opening a FIFO could block
        raise TokenizerError("wanted a file, found a directory, a device or a pipe")
    with path.open("rb") as file:
        content = file.read(MAX_FILE_SIZE + 1)
    if len(content) > MAX_FILE_SIZE:
        raise TokenizerError(f"wanted at most {MAX_FILE_SIZE:,} bytes, found more")
    return content
