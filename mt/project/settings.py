"""Settings of a model for an amount of text and of computing time, from a table.

`choose_settings` takes facts about the text and the machine, and looks up a row of TABLE. It is a
pure function, so that the table can be tested and printed: docs/recipes.md has it in words.
"""

import math
from dataclasses import dataclass

from mt.advice.advice import MAX_WARMUP_FRACTION, round_down
from mt.data.tokenizer_training import NUM_FIXED_PIECES
from mt.project.text_facts import REDUCED_COVERAGE, TextFacts


@dataclass(frozen=True)
class ModelSize:
    """A size of the Transformer, with the batch and the learning rate that fit it."""

    name: str
    d_model: int
    d_ff: int
    num_heads: int
    num_layers: int  # of the encoder, and of the decoder
    batch_tokens: int
    learning_rate: float
    warmup_steps: int  # at most; see `plan_length`

    @property
    def num_layer_parameters(self) -> int:
        """About how many weights the layers have, without biases and norms."""
        attention = 4 * self.d_model**2
        feed_forward = 2 * self.d_model * self.d_ff
        return self.num_layers * (3 * attention + 2 * feed_forward)

    def num_parameters(self, vocab_size: int) -> int:
        """Return about how many weights a model has, embeddings included."""
        return vocab_size * self.d_model + self.num_layer_parameters


# The settings of TINY and SMALL come from the runs in docs/recipes.md. BASE and BIG are those of
# Vaswani et al. 2017, with the pre-norm layers of mt, which train stably with a
# shorter warm-up.
TINY = ModelSize("tiny", 128, 512, 4, 2, batch_tokens=1536, learning_rate=4e-3, warmup_steps=400)
SMALL = ModelSize("small", 256, 1024, 4, 3, batch_tokens=3072, learning_rate=1e-3, warmup_steps=800)
MEDIUM = ModelSize(
    "medium", 384, 1536, 6, 4, batch_tokens=4096, learning_rate=8e-4, warmup_steps=1500
)
BASE = ModelSize("base", 512, 2048, 8, 6, batch_tokens=8192, learning_rate=7e-4, warmup_steps=4000)
BIG = ModelSize("big", 1024, 4096, 16, 6, batch_tokens=16384, learning_rate=4e-4, warmup_steps=4000)

# Speed is measured with this model, so that machines can be compared.
REFERENCE_SIZE = TINY
REFERENCE_VOCAB_SIZE = 4000


@dataclass(frozen=True)
class Row:
    """A row of the table: for at most `max_pairs` pairs and at least `min_epochs` epochs."""

    max_pairs: float
    min_epochs: float  # that the reference model would train in the time
    size: ModelSize
    vocab_size: int
    dropout: float
    bpe_dropout: float
    measured: bool = False  # whether a run of this row is in docs/recipes.md or RECORDS.md


# For each amount of text, the rows go from little to much time. With little time, regularization
# slows a model down, and a large model trains too few epochs. With much time, a small model stops
# improving, and without regularization it overfits: with 3,000 pairs of Tatoeba and dropout 0.1,
# the validation loss of TINY is 3.32 after 29 epochs and 3.49 after 58.
#
# Rows that are not measured follow published results: on little text, a smaller vocabulary and more
# dropout (Sennrich and Zhang 2019), fewer or narrower layers (Araabi and Monz 2020), small batches
# (Atrio and Popescu-Belis 2022); on much text, the models of Vaswani et al. 2017.
TABLE = (
    Row(500, 0, TINY, 400, dropout=0.3, bpe_dropout=0.1),
    Row(1_000, 0, TINY, 500, dropout=0.3, bpe_dropout=0.1),
    Row(3_000, 0, TINY, 1000, dropout=0.1, bpe_dropout=0.0),
    Row(3_000, 20, TINY, 1000, dropout=0.3, bpe_dropout=0.1),
    Row(5_000, 0, TINY, 2000, dropout=0.1, bpe_dropout=0.0),
    Row(5_000, 20, TINY, 2000, dropout=0.3, bpe_dropout=0.1, measured=True),
    Row(5_000, 600, SMALL, 2000, dropout=0.3, bpe_dropout=0.1),
    Row(20_000, 0, TINY, 4000, dropout=0.1, bpe_dropout=0.0, measured=True),
    Row(20_000, 40, TINY, 4000, dropout=0.2, bpe_dropout=0.0, measured=True),
    Row(20_000, 100, TINY, 4000, dropout=0.2, bpe_dropout=0.1),
    Row(20_000, 250, SMALL, 4000, dropout=0.3, bpe_dropout=0.1),
    Row(60_000, 0, TINY, 6000, dropout=0.1, bpe_dropout=0.0, measured=True),
    Row(60_000, 60, SMALL, 6000, dropout=0.2, bpe_dropout=0.1, measured=True),
    Row(60_000, 500, MEDIUM, 8000, dropout=0.3, bpe_dropout=0.1),
    Row(300_000, 0, TINY, 6000, dropout=0.1, bpe_dropout=0.0, measured=True),
    Row(300_000, 15, SMALL, 8000, dropout=0.1, bpe_dropout=0.0),
    Row(300_000, 100, MEDIUM, 8000, dropout=0.2, bpe_dropout=0.1),
    Row(300_000, 600, BASE, 8000, dropout=0.3, bpe_dropout=0.1),
    Row(2_000_000, 0, TINY, 8000, dropout=0.1, bpe_dropout=0.0),
    Row(2_000_000, 5, SMALL, 8000, dropout=0.1, bpe_dropout=0.0),
    Row(2_000_000, 20, MEDIUM, 16_000, dropout=0.1, bpe_dropout=0.0),
    Row(2_000_000, 100, BASE, 16_000, dropout=0.2, bpe_dropout=0.0),
    Row(math.inf, 0, TINY, 8000, dropout=0.1, bpe_dropout=0.0),
    Row(math.inf, 2, SMALL, 8000, dropout=0.1, bpe_dropout=0.0),
    Row(math.inf, 10, MEDIUM, 16_000, dropout=0.1, bpe_dropout=0.0),
    Row(math.inf, 50, BASE, 32_000, dropout=0.1, bpe_dropout=0.0),
    Row(math.inf, 2000, BIG, 32_000, dropout=0.2, bpe_dropout=0.0),
)

# The fraction of the time that is left for updates. The rest is for the tokenizer, for validations,
# and for the scores at the end.
UPDATE_FRACTION = 0.85

# A GPU works on many tokens as fast as on few.
GPU_BATCH_FACTOR = 4

# An epoch has at least this many updates, so that a small text is not seen in one piece. A run has
# at least MIN_UPDATES_PER_RUN, because a model cannot learn in fewer. A batch has at least
# MIN_BATCH_TOKENS, because a config refuses one that is smaller than data.max_length.
MIN_UPDATES_PER_EPOCH = 10
MIN_UPDATES_PER_RUN = 1000
MIN_BATCH_TOKENS = 512

MAX_UPDATES = 10**9  # the largest number that a config takes

NUM_VALIDATIONS = 8
NUM_LOG_LINES = 20  # at least, in a short run

# If more than this fraction of the vocabulary would be single characters, as in Chinese, the rarest
# of them are encoded as bytes, and the vocabulary has at least as many words as characters.
MAX_CHARACTER_FRACTION = 0.25


@dataclass(frozen=True)
class MachineFacts:
    """The machine that will train."""

    device: str  # "cpu" or "cuda"
    tokens_per_second: float  # of the reference model in training, on the longer side


@dataclass(frozen=True)
class Settings:
    """Values for a config, without those that depend on the number of updates."""

    row: Row
    vocab_size: int
    character_coverage: float
    batch_tokens: int

    @property
    def size(self) -> ModelSize:
        """The size of the model."""
        return self.row.size


@dataclass(frozen=True)
class RunLength:
    """The planned number of updates, and what depends on it."""

    num_updates: int
    warmup_steps: int
    validate_every: int
    log_every: int


def choose_settings(text: TextFacts, machine: MachineFacts, minutes: float) -> Settings:
    """Return the settings for a text, a machine and a time."""
    reference_tokens = machine.tokens_per_second * 60 * minutes * UPDATE_FRACTION
    epochs = reference_tokens / text.tokens_per_epoch
    row = find_row(text.num_pairs, epochs)
    vocab_size, character_coverage = choose_vocabulary(row, text)
    return Settings(
        row,
        vocab_size=vocab_size,
        character_coverage=character_coverage,
        batch_tokens=choose_batch_tokens(
            row.size, text, device=machine.device, reference_tokens=reference_tokens
        ),
    )


def find_row(num_pairs: int, epochs: float) -> Row:
    """Return the row for an amount of text and of time, see `Row`."""
    max_pairs = min(row.max_pairs for row in TABLE if num_pairs <= row.max_pairs)
    rows = [row for row in TABLE if row.max_pairs == max_pairs and row.min_epochs <= epochs]
    return max(rows, key=lambda row: row.min_epochs)


def choose_vocabulary(row: Row, text: TextFacts) -> tuple[int, float]:
    """Return the vocabulary size and the character coverage for a text."""
    vocab_size = min(row.vocab_size, largest_vocab_size(text))
    if text.num_different_characters <= MAX_CHARACTER_FRACTION * row.vocab_size:
        return vocab_size, 1.0
    with_words = NUM_FIXED_PIECES + 2 * text.num_frequent_characters
    return min(max(vocab_size, with_words), largest_vocab_size(text)), REDUCED_COVERAGE


def largest_vocab_size(text: TextFacts) -> int:
    """Return a vocabulary size that the text can fill.

    A token stands for each frequent character, and one can stand for each different word.
    """
    return NUM_FIXED_PIECES + text.num_frequent_characters + text.num_word_types


def choose_batch_tokens(
    size: ModelSize, text: TextFacts, *, device: str, reference_tokens: float
) -> int:
    """Return the size of a batch: that of the model size, or less for little text or time.

    `reference_tokens` is how many tokens the reference model would train on in the time.
    """
    batch_tokens = size.batch_tokens
    if device == "cuda":
        batch_tokens *= GPU_BATCH_FACTOR
    largest_for_text = text.tokens_per_epoch // MIN_UPDATES_PER_EPOCH
    relative_cost = size.num_layer_parameters / REFERENCE_SIZE.num_layer_parameters
    largest_for_time = int(reference_tokens / relative_cost / MIN_UPDATES_PER_RUN)
    return max(MIN_BATCH_TOKENS, min(batch_tokens, largest_for_text, largest_for_time))


def plan_length(settings: Settings, *, update_seconds: float, minutes: float) -> RunLength:
    """Return how many updates fit into the time, and what depends on their number."""
    num_updates = max(1, int(60 * minutes * UPDATE_FRACTION / update_seconds))
    num_updates = min(num_updates, MAX_UPDATES)
    return RunLength(
        num_updates,
        warmup_steps=min(settings.size.warmup_steps, int(MAX_WARMUP_FRACTION * num_updates)),
        validate_every=max(1, round_down(num_updates // NUM_VALIDATIONS)),
        log_every=max(1, min(50, num_updates // NUM_LOG_LINES)),
    )


def count_epochs(settings: Settings, length: RunLength, text: TextFacts) -> float:
    """Return about how often a run reads its text."""
    return length.num_updates * settings.batch_tokens / text.tokens_per_epoch


def describe_epochs(num_epochs: float) -> str:
    """Return a number of epochs in words for everyone: "3.2 passes over the text"."""
    digits = 1 if num_epochs < 10 else 0
    return f"{num_epochs:,.{digits}f} passes over the text"


def describe_minutes(minutes: float) -> str:
    """Return a time in words: "1 minute", "2.5 minutes"."""
    unit = "minute" if minutes == 1 else "minutes"
    return f"{minutes:g} {unit}"
