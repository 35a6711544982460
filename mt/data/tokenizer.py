"""Text <-> token ids by SentencePiece, set up so that decoding gives back exactly the text that was encoded.

SentencePiece itself loses two things, which this module puts right. It writes a space as U+2581, so that a U+2581 of
the text would come back as a space: such characters are escaped on the way in. And it draws sampled encodings from a
generator that differs from process to process, so that no run could be repeated: `bpe_dropout.py` draws them from ours.
"""

import hashlib
import io
import random
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, Self

import sentencepiece

from mt.data.bpe_dropout import Pieces, sample_segments
from mt.data.text import read_lines
from mt.errors import TokenizerError
from mt.storage.atomic import atomic_file

Kind = Literal["bpe", "unigram"]

PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)
NUM_DRAWS = 16  # samples of one word in one call; making them is what costs time
MAX_VOCAB_SIZE = 500_000
MAX_FILE_SIZE = 32_000_000  # bytes; room for as many pieces
NUM_TAGS = 16  # control pieces kept free for marks such as a target language
SPACE = "\u2581"  # how SentencePiece writes a space, and the start of a text
ESCAPE = "\x10"  # ASCII's "data link escape": what follows is not what it seems
UNTRAINABLE = "\u2585"  # SentencePiece leaves out of its training every sentence with this in it
PROBE = f" a  B\t\u00fc\u212b\u4e2d<s> {ESCAPE}{SPACE} "


class Tokenizer:
    """One SentencePiece model, in which encode and decode are inverse for every text without a newline.

    `bpe_dropout` is the probability of BPE-dropout; 0 is none. No id is ever read from
    a user's text: "<s>" in it is three characters.
    """

    pad_id, unk_id, bos_id, eos_id = PAD_ID, UNK_ID, BOS_ID, EOS_ID

    def __init__(self, model: bytes, *, bpe_dropout: float = 0.0, seed: int = 0) -> None:
        sentencepiece.set_min_log_level(2)  # lest it warn on stderr of what `_fault` finds
        self._processor = processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(model)
        self.bpe_dropout, self.seed = bpe_dropout, seed
        self.digest = hashlib.sha256(model).hexdigest()
        self.vocab_size = len(processor)
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise TokenizerError(
                f"wanted at most {MAX_VOCAB_SIZE:,} pieces, found {self.vocab_size:,}"
            )
        ids = range(self.vocab_size)
        texts = processor.id_to_piece(list(ids))
        control_ids = {i for i in ids if processor.is_control(i)}
        byte_ids = tuple(i for i in ids if processor.is_byte(i))
        ordinary = {texts[i]: i for i in ids if i not in {UNK_ID, *control_ids, *byte_ids}}
        scores = {text: processor.get_score(i) for text, i in ordinary.items()}
        self._pieces = Pieces(ids=ordinary, scores=scores, byte_ids=byte_ids)
        # In a BPE model a piece's score is the negated number of its merge; in a unigram model, a log-probability.
        self._is_bpe = all(score.is_integer() for score in scores.values())
        self.tag_ids = tuple(sorted(control_ids - {PAD_ID, BOS_ID, EOS_ID}))
        newline_ids = {i for i in ids if texts[i] == "<0x0A>" or "\n" in texts[i]}
        # What a search must never generate: eos alone among the control ids may be, and one line stays one line.
        self.forbidden_ids = tuple(sorted({UNK_ID} | control_ids - {EOS_ID} | newline_ids))

    @classmethod
    def load(cls, path: Path, *, bpe_dropout: float = 0.0, seed: int = 0) -> Self:
        """Read a model file; TokenizerError unless it is there and keeps our rules (see `_fault`)."""
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_SIZE + 1)
            if len(content) > MAX_FILE_SIZE:
                raise TokenizerError(f"wanted at most {MAX_FILE_SIZE:,} bytes, found more")
            tokenizer = cls(content, bpe_dropout=bpe_dropout, seed=seed)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: not a tokenizer: {error}") from None
        except OSError as error:
            raise TokenizerError(f"{path}: cannot read the tokenizer: {error.strerror}") from error
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(f"{path}: not a SentencePiece model") from error
        if fault := tokenizer._fault():
            raise TokenizerError(f"{path}: not a model as `mt tokenizer train` makes them: {fault}")
        return tokenizer

    def encode(self, texts: Sequence[str], *, epoch: int | None = None) -> list[list[int]]:
        """The ids of each text, eos last. With an epoch, a sampled encoding: a function of (seed, epoch, texts)."""
        escaped = [_escape(text) for text in texts]
        if epoch is None or self.bpe_dropout == 0.0:
            rows: list[list[int]] = self._processor.encode(escaped, add_eos=True)
            return rows
        return self._encode_sampled(escaped, epoch)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of ids; pad, bos, eos and tags are passed over."""
        return [_unescape(text) for text in self._processor.decode([list(row) for row in rows])]

    def piece(self, token_id: int) -> str:
        """How a token is written, for people to read; a space is U+2581."""
        return str(self._processor.id_to_piece(token_id))

    def _encode_sampled(self, texts: Sequence[str], epoch: int) -> list[list[int]]:
        """Encode word by word, for no piece reaches over a space; a frequent word has NUM_DRAWS samples to pick from.

        The texts themselves are in the seed, lest all chunks of a corpus get the same draws.
        """
        draw = random.Random(
            f"{self.seed} {epoch} {zlib.crc32(chr(10).join(texts).encode())}"
        ).random
        samples: dict[str, list[list[int]]] = defaultdict(list)
        rows = []
        for text in texts:
            row: list[int] = []
            for word in text.split(" ") if text else ():
                drawn = samples[word]
                if len(drawn) < NUM_DRAWS:
                    segments = sample_segments(
                        SPACE + word, self._pieces, dropout=self.bpe_dropout, draw=draw
                    )
                    drawn.append(self._pieces.look_up(segments))
                    row += drawn[-1]
                else:
                    row += drawn[int(draw() * NUM_DRAWS)]
            rows.append([*row, EOS_ID])
        return rows

    def _fault(self) -> str | None:
        """What keeps a model, perhaps not of our making, from serving here."""
        processor = self._processor
        ids = (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id())
        if ids != (PAD_ID, UNK_ID, BOS_ID, EOS_ID):
            return f"its ids of pad, unk, bos and eos are {ids}, not {(PAD_ID, UNK_ID, BOS_ID, EOS_ID)}"
        if len(self._pieces.byte_ids) != 256:
            return "it has no pieces for bytes (byte_fallback), so some characters would be lost"
        if any(SPACE in piece[1:] for piece in self._pieces.ids):
            return "some of its pieces reach over a space"
        if self.bpe_dropout > 0.0 and not self._is_bpe:
            return "it is a unigram model, and only BPE has a dropout (sampling)"
        if self.decode(self.encode([PROBE])) != [PROBE]:
            return "it changes the text (normalization, or removal of spaces)"
        return None


def train_tokenizer(
    sentences: Iterable[str],
    path: Path,
    *,
    kind: Kind,
    vocab_size: int,
    character_coverage: float = 1.0,
) -> None:
    """Train on all the sentences and write the model to `path`, which appears whole or not at all.

    The same sentences give the same bytes. TokenizerError when the sentences cannot fill or fit the vocabulary;
    an error raised by `sentences` itself is passed on.
    """
    if vocab_size > MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"{path}: vocab_size {vocab_size} is too large: wanted at most {MAX_VOCAB_SIZE}"
        )
    failures: list[BaseException] = []
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_trainable(sentences, failures),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            byte_fallback=True,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            control_symbols=[f"<tag_{number}>" for number in range(NUM_TAGS)],
            max_sentence_length=2
            ** 30,  # bytes; longer sentences are left out, and the default is 4192
            num_threads=1,  # the model depends on their number
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        if failures:
            raise failures[0] from None
        raise TokenizerError(f"{path}: {_explain(str(error), vocab_size)}") from error
    with atomic_file(path) as file:
        file.write(model.getvalue())


def train_tokenizer_from_files(
    paths: Iterable[Path], model: Path, *, kind: Kind, vocab_size: int, character_coverage: float
) -> None:
    """Train one tokenizer on all lines of all files."""
    lines = chain.from_iterable(map(read_lines, paths))
    train_tokenizer(
        lines, model, kind=kind, vocab_size=vocab_size, character_coverage=character_coverage
    )


def _trainable(sentences: Iterable[str], failures: list[BaseException]) -> Iterator[str]:
    """Sentences as SentencePiece takes them; keeps an exception, for on its way through C++ it loses its type."""
    try:
        for sentence in sentences:
            yield _escape(sentence).replace(UNTRAINABLE, " ")
    except BaseException as error:
        failures.append(error)
        raise


def _explain(message: str, vocab_size: int) -> str:
    """Say in our words what SentencePiece's trainer found wrong."""
    if largest := re.search(r"Vocabulary size too high .*<= (\d+)", message):
        return f"vocab_size {vocab_size} is more than this text can fill; it can be {largest[1]} at most"
    if smallest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        num_fixed = 4 + NUM_TAGS + 256
        parts = f"{num_fixed} fixed pieces and {int(smallest[1]) - num_fixed} different characters"
        return f"vocab_size {vocab_size} is too small for this text; it must be {smallest[1]} at least: {parts}"
    if "!sentences_.empty()" in message:
        return "there is no text to train on"
    return f"SentencePiece could not train: {' '.join(message.split())}"


def _escape(text: str) -> str:
    """Free the text of U+2581, which means a space to SentencePiece. The inverse of `_unescape`."""
    return text.replace(ESCAPE, ESCAPE + "e").replace(SPACE, ESCAPE + "s")


def _unescape(text: str) -> str:
    return text.replace(ESCAPE + "s", SPACE).replace(ESCAPE + "e", ESCAPE)
