"""Schema of configs: a frozen model for each section, with type, range, default and description.

The descriptions are user documentation: `scripts/docs/config_table.py` makes the table of keys from
them.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from mt.config.choices import MAX_TAGS, MAX_VOCAB_SIZE, BleuTokenizer, Normalization


def _absolute(path: str) -> str:
    """Return the absolute path, with `~` expanded; refuse one that would break an error's line."""
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", path):
        raise PydanticCustomError("path", "a path without control characters")
    return os.path.abspath(os.path.expanduser(path))


def setting(value: Any, description: str) -> Any:
    """Return a field with a default and a description, which is one line of the table of keys."""
    return Field(default=value, description=description)


# Every number has bounds, so that a typing mistake or a hostile file gets an error, and not an
# attempt to do what no machine can.
Count = Annotated[int, Field(gt=0, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Length = Annotated[int, Field(gt=0, le=65_536)]  # tokens
Width = Annotated[int, Field(gt=0, le=65_536)]
NumLayers = Annotated[int, Field(gt=0, le=256)]
VocabSize = Annotated[int, Field(gt=0, le=MAX_VOCAB_SIZE)]
BeamSize = Annotated[int, Field(gt=0, le=1000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Coverage = Annotated[float, Field(ge=0.98, le=1)]  # the range that SentencePiece accepts
Temperature = Annotated[float, Field(ge=1, le=1000)]
Ratio = Annotated[float, Field(ge=1, le=10**6)]
Weight = Annotated[float, Field(gt=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=100)]
Exponent = Annotated[float, Field(ge=0, le=10)]
Factor = Annotated[float, Field(ge=0, le=100)]
Norm = Annotated[float, Field(ge=0, le=10**9)]
Minutes = Annotated[float, Field(gt=0, le=10**7)]
# A name becomes part of a file name or of a key in metrics.jsonl.
Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]
# A path is stored as absolute, because a run may resume in another working directory.
FilePath = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_absolute)]


def _check_column(column: Any) -> Any:
    is_number = type(column) is int and 1 <= column <= 10_000
    is_name = isinstance(column, str) and 0 < len(column) <= 1000
    if not is_number and not is_name:
        raise PydanticCustomError("column", "a number of a column, counted from 1, or its name")
    return column


Column = Annotated[int | str, BeforeValidator(_check_column)]
Columns = tuple[Column, Column]

Batching = Literal["pools", "sorted"]
AttentionKind = Literal["dot_product", "additive", "dense_synthesizer"]
ValidationLengthLimit = Literal["data", "search"]

PREFIX_DESCRIPTION = (
    "the files are `PREFIX.<src_lang>` and `PREFIX.<tgt_lang>`, or these with `.gz` or `.zst`"
)
TSV_DESCRIPTION = "file with the source and the target in columns separated by tabs"
COLUMNS_DESCRIPTION = (
    "the columns of source and target in tsv: two numbers, counted from 1, or two names in the "
    "first line of the file; null: [1, 2]"
)
TMX_DESCRIPTION = "translation memory (TMX), of which the units in both languages are used"
# The tag of a target language is called 2de, as in "to German".
LANGUAGE_TAG_MARK = "2"

MAX_PARAMETERS = 2 * 10**10  # Adam's state for as many fits on no GPU of today


class Section(BaseModel):
    """Base of all sections: refuses unknown keys, other types, NaN, infinity and later changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield the key and the problem for each combination of values that cannot work.

        Keys are relative to this section.
        """
        return iter(())

    @model_validator(mode="before")
    @classmethod
    def _read_bare_heading_as_empty(cls, values: Any) -> Any:
        return {} if values is None else values

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> Self:
        for key, problem in self.conflicts():
            raise PydanticCustomError("conflict", "{problem}", {"key": key, "problem": problem})
        return self


class LanguagePair(NamedTuple):
    """What is translated into what."""

    src: str
    tgt: str


class CorpusConfig(Section):
    """One parallel training corpus: two files, a table (TSV) or a translation memory (TMX).

    Two files are given by a common prefix or one by one.
    """

    prefix: FilePath | None = setting(None, PREFIX_DESCRIPTION)
    src: FilePath | None = setting(None, "source file, instead of prefix")
    tgt: FilePath | None = setting(None, "target file, instead of prefix")
    tsv: FilePath | None = setting(None, f"{TSV_DESCRIPTION}, instead of prefix")
    columns: Columns | None = setting(None, COLUMNS_DESCRIPTION)
    tmx: FilePath | None = setting(None, f"{TMX_DESCRIPTION}, instead of prefix")
    weight: Weight = setting(
        1.0, "how often each pair is used in an epoch; for a fraction, a random sample of pairs"
    )
    src_lang: Name | None = setting(None, "source language of this corpus; null: data.src_lang")
    tgt_lang: Name | None = setting(None, "target language of this corpus; null: data.tgt_lang")
    tag: Name | None = setting(
        None,
        "name of a tag in front of the sources of this corpus, such as bt for translations by a "
        "machine; translations are made without it",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_text_as_file(cls, values: Any) -> Any:
        return file_keys(values) if isinstance(values, str) else values

    def conflicts(self) -> Iterator[tuple[str, str]]:
        files = {"src": self.src, "tgt": self.tgt}
        others = {"prefix": self.prefix, "tsv": self.tsv, "tmx": self.tmx}
        yield from _conflicts_of_files(files, others, self.columns)
        if self.tag is not None and self.tag.startswith(LANGUAGE_TAG_MARK):
            yield (
                "tag",
                f"wanted a name that does not begin with {LANGUAGE_TAG_MARK}, which marks the tag "
                f"of a target language; found {self.tag}",
            )


class EvalSetConfig(Section):
    """A named set that is translated and scored, and not used for training."""

    name: Name = Field(description="its name in logs, metrics.jsonl and `mt evaluate`")
    prefix: FilePath | None = setting(None, PREFIX_DESCRIPTION)
    src: FilePath | None = setting(None, "source file, instead of prefix")
    refs: tuple[FilePath, ...] = setting((), "one or more reference files, instead of prefix")
    tsv: FilePath | None = setting(None, f"{TSV_DESCRIPTION}, instead of prefix")
    columns: Columns | None = setting(None, COLUMNS_DESCRIPTION)
    tmx: FilePath | None = setting(None, f"{TMX_DESCRIPTION}, instead of prefix")
    src_lang: Name | None = setting(None, "source language of this set; null: data.src_lang")
    tgt_lang: Name | None = setting(None, "target language of this set; null: data.tgt_lang")

    @model_validator(mode="before")
    @classmethod
    def _read_text_as_file(cls, values: Any) -> Any:
        if not isinstance(values, str):
            return values
        return {"name": eval_set_name(values)} | file_keys(values)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        files = {"src": self.src, "refs": self.refs}
        others = {"prefix": self.prefix, "tsv": self.tsv, "tmx": self.tmx}
        yield from _conflicts_of_files(files, others, self.columns)


def eval_set_name(path: str) -> str:
    """Return the name of a set that is given as a plain path, as in `valid: data/val`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", os.path.basename(path.rstrip("/")))


def file_keys(path: str) -> dict[str, str]:
    """Return the key that a plain path stands for, as in `train: corpus`, with the path.

    The ending decides. It is not a prefix if it is that of a table or a translation memory.
    """
    name = path.removesuffix(".gz").removesuffix(".zst").lower()
    if name.endswith((".tsv", ".txt")):
        return {"tsv": path}
    if name.endswith(".tmx"):
        return {"tmx": path}
    return {"prefix": path}


def _conflicts_of_files(
    files: dict[str, Any], others: dict[str, Any], columns: Columns | None
) -> Iterator[tuple[str, str]]:
    """Check that a text is given in one way: by two files, or by one of the other keys."""
    two_files = " and ".join(files)
    given_files = [key for key, value in files.items() if value]
    given = [key for key, value in others.items() if value is not None]
    if not given and not given_files:
        yield "prefix", f"wanted a prefix, or tsv, or tmx, or both {two_files}"
    elif not given and len(given_files) == 1:
        yield given_files[0], f"wanted both {two_files}, found only {given_files[0]}"
    elif len(given) > 1 or (given and given_files):
        found = " and ".join([*given, *given_files])
        yield given[0], f"wanted one of prefix, tsv, tmx, or {two_files}; found {found}"
    if columns is None:
        return
    if others["tsv"] is None:
        yield "columns", "are those of a tsv file: wanted tsv"
    elif type(columns[0]) is not type(columns[1]):
        yield "columns", "wanted two numbers or two names, found one of each"
    elif columns[0] == columns[1]:
        yield "columns", f"wanted two columns, found {columns[0]} twice"


class DataConfig(Section):
    """Languages and text files for training, validation and testing."""

    src_lang: Name = Field(description="source language; extension of the source files")
    tgt_lang: Name = Field(
        description="target language; extension of the target files; in a model of several target "
        "languages, the default target language"
    )
    train: tuple[CorpusConfig, ...] = Field(
        min_length=1, max_length=1000, description="training corpora"
    )
    valid: tuple[EvalSetConfig, ...] = Field(
        min_length=1,
        max_length=100,
        description="validation set: it is scored during training and selects the best checkpoint; "
        "of a list of sets, the mean of their scores does",
    )
    test: tuple[EvalSetConfig, ...] = setting((), "test sets, which `mt evaluate` scores")
    tags: tuple[Name, ...] | None = Field(
        default=None,
        max_length=MAX_TAGS,
        description="names of the tags that can stand in front of a source, such as 2de for the "
        "target language de; null: those of init_from, one for each target language if there are "
        "several, and those of the corpora",
    )
    sampling_temperature: Temperature = setting(
        1.0,
        "temperature T of sampling from language pairs: a pair of languages with n sentence pairs "
        "has a part of the epoch in proportion to n^(1/T); 1: all pairs are used once",
    )
    normalization: Normalization = setting(
        "nfc",
        "form of all text before tokenization; nfc: Unicode NFC, single spaces, no invisible "
        "characters without a meaning; nfkc: also without compatibility characters such as "
        "full-width letters",
    )
    unseen_character_fraction: Probability = setting(
        0.02,
        "fraction of the training sources into which random characters without a token are put, so "
        "that an unseen character in a text to translate does little harm",
    )
    max_length: Length = setting(
        256,
        "maximum number of tokens of a sentence, end of sentence included; longer training pairs "
        "are left out",
    )
    max_length_ratio: Ratio = setting(
        9.0,
        "maximum ratio of the lengths in tokens of a training pair, longer to shorter side",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_one_item_as_list(cls, values: Any) -> Any:
        """Allow `train: corpus` and `test: news` for lists of one item."""
        if not isinstance(values, dict):
            return values
        items = {key: values[key] for key in ("train", "valid", "test") if key in values}
        lists: dict[str, Any] = {}
        for key, item in items.items():
            is_bare_heading = key == "valid" and item is None  # its keys are missing
            if isinstance(item, str | dict) or is_bare_heading:
                lists[key] = (item,)
        return values | lists

    def languages(self, section: CorpusConfig | EvalSetConfig) -> LanguagePair:
        """Return the source and the target language of a corpus or an evaluation set."""
        return LanguagePair(section.src_lang or self.src_lang, section.tgt_lang or self.tgt_lang)

    def file_names(self, section: CorpusConfig | EvalSetConfig) -> list[str]:
        """Return the names of the files of a corpus or evaluation set, without directories."""
        if section.prefix is not None:
            name = Path(section.prefix).name
            return [f"{name}.{language}" for language in self.languages(section)]
        targets = section.refs if isinstance(section, EvalSetConfig) else (section.tgt,)
        paths = (section.src, *targets, section.tsv, section.tmx)
        return [Path(path).name for path in paths if path is not None]

    @property
    def language_pairs(self) -> tuple[LanguagePair, ...]:
        """The language pairs of the training corpora, each once, in their order."""
        return tuple(dict.fromkeys(self.languages(corpus) for corpus in self.train))

    @property
    def trained_tgt_languages(self) -> tuple[str, ...]:
        """The target languages of the training corpora, each once, in their order."""
        return tuple(dict.fromkeys(pair.tgt for pair in self.language_pairs))

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from self._conflicts_of_languages()
        yield from self._conflicts_of_tags()
        names = set()
        for key, eval_set in self._eval_sets():
            if eval_set.name in names:
                yield (
                    f"{key}.name",
                    f"wanted a name of its own, found {eval_set.name} a second time",
                )
            names.add(eval_set.name)

    def _eval_sets(self) -> Iterator[tuple[str, EvalSetConfig]]:
        """Yield the key and the section of each evaluation set."""
        for index, valid_set in enumerate(self.valid):
            yield f"valid.{index}", valid_set
        for index, test_set in enumerate(self.test):
            yield f"test.{index}", test_set

    def _conflicts_of_languages(self) -> Iterator[tuple[str, str]]:
        """Check that the model learns to translate into all target languages."""
        known = set(self.trained_tgt_languages)
        for name in self.tags or ():
            if name.startswith(LANGUAGE_TAG_MARK):
                known.add(name.removeprefix(LANGUAGE_TAG_MARK))
        wanted = f"wanted a target language of data.train ({', '.join(self.trained_tgt_languages)})"
        if self.tgt_lang not in known:
            yield "tgt_lang", f"{wanted}, found {self.tgt_lang}"
        for key, eval_set in self._eval_sets():
            if eval_set.tgt_lang is not None and eval_set.tgt_lang not in known:
                yield f"{key}.tgt_lang", f"{wanted}, found {eval_set.tgt_lang}"
        if self.sampling_temperature != 1.0 and len(self.language_pairs) == 1:
            yield (
                "sampling_temperature",
                "is for several language pairs; for corpora of one pair, use data.train.N.weight",
            )

    def missing_tags(self, tags: Sequence[str]) -> list[str]:
        """Return the tags that the training corpora need besides `tags`."""
        needed = []
        has_language_tags = any(name.startswith(LANGUAGE_TAG_MARK) for name in tags)
        if has_language_tags or len(self.trained_tgt_languages) > 1:
            needed += [f"{LANGUAGE_TAG_MARK}{language}" for language in self.trained_tgt_languages]
        needed += [corpus.tag for corpus in self.train if corpus.tag is not None]
        return [name for name in dict.fromkeys(needed) if name not in tags]

    def _conflicts_of_tags(self) -> Iterator[tuple[str, str]]:
        """Check that given tags are those that the corpora need."""
        if self.tags is None:
            return
        if len(set(self.tags)) < len(self.tags):
            yield "tags", f"wanted each name once, found {', '.join(self.tags)}"
        missing = self.missing_tags(self.tags)
        if missing:
            yield "tags", f"wanted also {', '.join(missing)}, which data.train needs"


class TokenizerConfig(Section):
    """Tokenizers: SentencePiece models to train, or existing ones."""

    kind: Literal["bpe", "unigram"] = setting("bpe", "algorithm of a new tokenizer")
    joint: bool = setting(True, "one tokenizer for both languages; false: one for each")
    vocab_size: VocabSize = setting(
        8000, "vocabulary size of a new tokenizer; of each one, if not joint"
    )
    character_coverage: Coverage = setting(
        1.0, "share of the text's characters that get tokens; the others are encoded as bytes"
    )
    max_sentences: Count | None = setting(
        1_000_000,
        "sentences of both languages (of one, if not joint) that a new tokenizer is trained on: a "
        "random sample if there are more; null: all, in memory",
    )
    bpe_dropout: Probability = setting(0.0, "probability of BPE-dropout in training; 0: off")
    model: FilePath | None = setting(None, "existing joint .model file to use")
    src_model: FilePath | None = setting(None, "existing source .model file to use, if not joint")
    tgt_model: FilePath | None = setting(None, "existing target .model file to use, if not joint")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        model_keys = ("model", "src_model", "tgt_model")
        existing = [key for key in model_keys if getattr(self, key) is not None]
        if self.bpe_dropout > 0 and self.kind != "bpe":
            yield "bpe_dropout", f"is BPE-dropout: wanted kind: bpe, found {self.kind}"
        if self.joint and ("src_model" in existing or "tgt_model" in existing):
            yield (
                existing[-1],
                "wanted no src_model and tgt_model with joint: true (model names a joint one)",
            )
        if not self.joint and "model" in existing:
            yield "model", "wanted src_model and tgt_model with joint: false"
        if not self.joint and len(existing) == 1:
            yield existing[0], "wanted both src_model and tgt_model, found one"
        for key in ("kind", "vocab_size", "character_coverage"):
            is_changed = getattr(self, key) != type(self).model_fields[key].default
            if existing and is_changed:
                yield key, f"shapes a new tokenizer, but {existing[0]} names an existing one"


class ModelConfig(Section):
    """Size and kind of the Transformer (Vaswani et al., 2017)."""

    d_model: Width = setting(256, "width of the embeddings and of each layer's output")
    d_ff: Width = setting(1024, "inner width of the feed-forward layers")
    num_heads: Width = setting(4, "attention heads; must divide d_model")
    num_encoder_layers: NumLayers = setting(4, "encoder layers")
    num_decoder_layers: NumLayers = setting(4, "decoder layers")
    norm: Literal["pre", "post"] = setting(
        "pre", "layer normalization before each sublayer, or after it"
    )
    norm_kind: Literal["layer_norm", "rms_norm"] = setting(
        "layer_norm", "kind of these norms; rms_norm: without means and biases"
    )
    activation: Literal["relu", "gelu", "swiglu"] = setting(
        "relu",
        "activation function of the feed-forward layers; swiglu: with a gate, which is a third "
        "matrix of d_model by d_ff",
    )
    dropout: Probability = setting(0.1, "dropout on the output of each sublayer")
    attention_dropout: Probability = setting(0.0, "dropout on attention weights")
    activation_dropout: Probability = setting(0.0, "dropout inside the feed-forward layers")
    embedding_dropout: Probability | None = setting(
        None, "dropout on embeddings; null: the value of dropout"
    )
    token_dropout: Probability = setting(
        0.0,
        "probability that training hides a token of the source or of the decoder's input: its "
        "embedding is zero, its position stays",
    )
    tie_embeddings: Literal["all", "decoder", "none"] = setting(
        "all",
        "which embeddings share one matrix; all: source, target and output; decoder: target and "
        "output",
    )
    self_attention: AttentionKind = setting("dot_product", "attention within a sentence")
    cross_attention: AttentionKind = setting(
        "dot_product", "attention from target to source; dense_synthesizer is not possible"
    )
    max_length: Length | None = setting(
        None,
        "positions that dense_synthesizer has weights for, at least data.max_length; null: for the "
        "other kinds",
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.d_model % 2 != 0:
            yield (
                "d_model",
                "wanted an even number (positions are pairs of sine and cosine), "
                f"found {self.d_model}",
            )
        if self.d_model % self.num_heads != 0:
            yield (
                "num_heads",
                f"wanted a divisor of model.d_model ({self.d_model}), found {self.num_heads}",
            )
        if self.cross_attention == "dense_synthesizer":
            yield (
                "cross_attention",
                "dense_synthesizer computes weights without the source: "
                "wanted dot_product or additive",
            )
        if self.max_length is not None and self.self_attention != "dense_synthesizer":
            yield (
                "max_length",
                "counts the positions of dense_synthesizer: "
                f"wanted null with self_attention: {self.self_attention}, found {self.max_length}",
            )
        num_parameters = self._num_layer_parameters()
        if num_parameters > MAX_PARAMETERS:
            yield (
                "d_model",
                f"wanted layers of at most {MAX_PARAMETERS:.0e} parameters in all, "
                f"found {num_parameters:.0e}",
            )

    @property
    def num_feed_forward_weights(self) -> int:
        """The number of weights in a feed-forward layer, without biases."""
        num_matrices = 3 if self.activation == "swiglu" else 2
        return num_matrices * self.d_model * self.d_ff

    @property
    def has_dropout(self) -> bool:
        """Whether two passes over a batch differ in training."""
        rates = (
            self.dropout,
            self.attention_dropout,
            self.activation_dropout,
            self.embedding_dropout or 0.0,
            self.token_dropout,
        )
        return max(rates) > 0.0

    def _num_layer_parameters(self) -> int:
        """Return the number of weights in all layers, without biases and norms."""
        attention = 4 * self.d_model**2
        feed_forward = self.num_feed_forward_weights
        # The weights of a dense synthesizer for each position; there are none without max_length.
        positions = self.num_heads * (self.max_length or 0) * self.d_model
        encoder_layer = attention + positions + feed_forward
        decoder_layer = 2 * attention + positions + feed_forward
        return self.num_encoder_layers * encoder_layer + self.num_decoder_layers * decoder_layer


class TrainConfig(Section):
    """Optimization, its duration, validation and checkpoints."""

    run_dir: FilePath | None = setting(
        None, "directory of the run; null: runs/<name of the config file>"
    )
    init_from: FilePath | None = setting(
        None,
        "directory of a run to start from: its weights, tokenizer and normalization; keys of the "
        "model that are not set here have its values",
    )
    init_checkpoint: Name = setting(
        "best", "checkpoint of init_from, such as best, last or average"
    )
    init_tokenizer: Literal["parent", "new"] = setting(
        "parent",
        "which tokenizer a run with init_from uses; parent: the other run's; new: a new one, "
        "trained as the section tokenizer says; tokens that both have keep their embeddings",
    )
    init_new_tokens: Literal["mean", "random"] = setting(
        "mean",
        "embeddings of the tokens that only a new tokenizer has; mean: of the tokens into which "
        "the other tokenizer splits them",
    )
    freeze: tuple[Name, ...] = setting(
        (),
        "weights that are not trained, given as name prefixes, such as encoder_layers or "
        "decoder_layers.0; only with init_from",
    )
    seed: Seed = setting(1, "seed of all random numbers")
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "where to compute; auto: cuda if there is a GPU"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "number format of matrix products; fp16: cuda only; auto: bf16 where it is fast",
    )
    compile: bool = setting(
        False, "compile the model with torch.compile, which takes a minute at the start; cuda only"
    )
    batch_tokens: Count = setting(4096, "batch size in tokens of the longer side, padding included")
    batching: Batching = setting(
        "pools",
        "how pairs of similar length come into one batch; pools: from random parts of the data; "
        "sorted: from all data, as mt 0.1 does",
    )
    gradient_accumulation: Count = setting(1, "batches per update")
    optimizer: Literal["adamw", "adam"] = setting(
        "adamw", "optimizer; weight decay is decoupled (adamw) or part of the gradient (adam)"
    )
    learning_rate: Rate = setting(7e-4, "peak learning rate, reached after the warm-up")
    schedule: Literal["inverse_sqrt", "cosine", "linear", "constant"] = setting(
        "inverse_sqrt",
        "learning rate schedule after the warm-up; cosine and linear fall to zero over the whole "
        "run, the others over its last part (cooldown)",
    )
    warmup_steps: CountOrZero = setting(1000, "updates of linear warm-up")
    max_warmup_fraction: Fraction | None = setting(
        0.1, "longest warm-up, as a fraction of the run's updates; null: no limit"
    )
    cooldown_fraction: Fraction = setting(
        0.2,
        "fraction of the updates after the warm-up, at the end of the run, over which the learning "
        "rate of inverse_sqrt and constant falls linearly to zero; 0: it does not",
    )
    betas: tuple[Probability, Probability] = setting(
        (0.9, 0.98), "Adam's decay rates of the two moments"
    )
    epsilon: Rate = setting(1e-9, "Adam's epsilon, which avoids division by zero")
    ema_decay: Probability = setting(
        0.0,
        "decay of the exponential moving average of the weights, which is used for "
        "validation, translation and export; the decay grows to this value over the first updates; "
        "0: no average",
    )
    weight_decay: Factor = setting(0.0, "weight decay; biases and norms have none")
    clip_norm: Norm = setting(1.0, "maximum gradient norm; 0: no clipping")
    label_smoothing: Probability = setting(
        0.1, "label smoothing: probability taken from the correct token and spread over all"
    )
    r_drop: Factor = setting(
        0.0,
        "weight alpha of R-Drop: each batch is computed twice with different dropout, and a "
        "difference between the two predictions adds to the loss; 5 in its paper; 0: off",
    )
    teacher: tuple[FilePath, ...] = setting(
        (),
        "run directory of a teacher with the same tokenizer, or a list of several: the model also "
        "learns from their predicted probabilities (word-level distillation)",
    )
    teacher_checkpoint: Name = setting(
        "best", "checkpoint of each teacher, such as best, last or average"
    )
    teacher_weight: Fraction = setting(
        0.5, "weight of the teachers in the loss; the reference translations have the rest"
    )
    max_steps: Count | None = setting(None, "stop after this many updates")
    max_epochs: Count | None = setting(None, "stop after this many epochs")
    max_minutes: Minutes | None = setting(
        None,
        "end after this many minutes, counted from the start of the command; tokenizers and "
        "validation are included",
    )
    validate_every: Count = setting(500, "updates between validations")
    validation_lines: Count | None = setting(
        500,
        "number of lines of data.valid that a validation translates, a fixed sample; null: all; "
        "the score at the end of a run is of all lines if max_minutes allows it",
    )
    validation_beam_size: BeamSize | None = setting(
        1, "beam size of validations; null: search.beam_size; at the end of a run, that is used"
    )
    validation_length_limit: ValidationLengthLimit = setting(
        "data",
        "maximum length of a translation in a validation; data: from the lengths of the training "
        "pairs, where this is shorter; search: as search.max_length_factor says",
    )
    log_every: Count = setting(50, "updates between lines in metrics.jsonl")
    save_every: Count | None = setting(
        None, "updates between checkpoints, besides those of validations; null: no others"
    )
    keep_checkpoints: Count = setting(2, "number of newest checkpoints to keep, besides the best")
    metric: Literal["bleu", "chrf", "loss"] = setting(
        "bleu",
        "metric on data.valid that selects the best checkpoint; of equal values, the one with the "
        "lower loss",
    )
    max_skipped: Count = setting(
        50, "abort after this many consecutive non-finite updates, at the next line of the log"
    )
    patience: Count | None = setting(
        None, "early stopping: stop after this many validations without improvement; null: never"
    )
    num_samples: CountOrZero = setting(3, "sample translations shown at each validation")
    tensorboard: bool = setting(
        False,
        "also write the numbers of metrics.jsonl to <run_dir>/tensorboard, for TensorBoard; needs "
        "the package tensorboard",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_one_teacher_as_list(cls, values: Any) -> Any:
        """Allow `teacher: RUN_DIR` for a list of one."""
        if not isinstance(values, dict) or not isinstance(values.get("teacher"), str):
            return values
        return values | {"teacher": (values["teacher"],)}

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            yield "max_steps", "wanted an end to training: max_steps, max_epochs or max_minutes"
        if self.freeze and self.init_from is None:
            yield "freeze", "keeps the weights of another run: wanted init_from"
        if self.init_checkpoint != "best" and self.init_from is None:
            yield "init_checkpoint", "names a checkpoint of another run: wanted init_from"
        if self.init_tokenizer != "parent" and self.init_from is None:
            yield "init_tokenizer", "is for a training from another run: wanted init_from"
        if self.init_new_tokens != "mean" and self.init_tokenizer != "new":
            yield "init_new_tokens", "is for a new tokenizer: wanted init_tokenizer: new"
        for key in ("teacher_checkpoint", "teacher_weight"):
            is_changed = getattr(self, key) != type(self).model_fields[key].default
            if is_changed and not self.teacher:
                yield key, "is for distillation: wanted teacher"
        if self.teacher and self.r_drop > 0:
            yield "r_drop", "cannot be combined with teacher: wanted one of them"
        if self.device == "cpu" and self.compile:
            yield "compile", "is slower on a cpu: wanted false, or device: cuda"
        if self.device == "cpu" and self.precision == "fp16":
            yield "precision", "fp16 needs cuda: wanted auto, fp32 or bf16 with device: cpu"


class SearchConfig(Section):
    """Beam search. `train.validation_beam_size` is that of validations."""

    beam_size: BeamSize = setting(5, "beam size; 1: greedy search")
    length_penalty: Exponent = setting(1.0, "exponent p of score = log_prob / length^p; 0: none")
    max_length_factor: Factor = setting(
        2.0, "maximum length of a translation: factor * source tokens + offset"
    )
    max_length_offset: Length = setting(20, "offset in max_length_factor, in tokens")
    batch_tokens: Count = setting(
        8192, "batch size in source tokens times beam size, padding included"
    )


class EvaluationConfig(Section):
    """How translations are scored, in validation too."""

    tokenize: BleuTokenizer = setting(
        "auto", "BLEU's tokenizer, as sacreBLEU calls it; auto: what fits the target language"
    )
    lowercase: bool = setting(False, "ignore case in BLEU and chrF; TER always does")


class Config(Section):
    """Everything that a run depends on, besides the content of its files."""

    data: DataConfig = Field(description="text files")
    tokenizer: TokenizerConfig = setting(TokenizerConfig(), "tokenizers")
    model: ModelConfig = setting(ModelConfig(), "the network")
    train: TrainConfig = Field(description="training")
    search: SearchConfig = setting(SearchConfig(), "search for translations")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), "scores of translations")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        # With `train.init_from`, a key of the model that is not set gets the other run's value, and
        # the config is checked again.
        is_inherited = (
            self.train.init_from is not None and "tie_embeddings" not in self.model.model_fields_set
        )
        if self.model.tie_embeddings == "all" and not self.tokenizer.joint and not is_inherited:
            yield (
                "model.tie_embeddings",
                "all shares one matrix, but tokenizer.joint is false: wanted decoder or none",
            )
        if self.train.r_drop > 0 and not self.model.has_dropout:
            yield "train.r_drop", "needs dropout, which is 0: wanted model.dropout above 0"
        wanted = f"wanted data.max_length ({self.data.max_length}) or more"
        num_positions = self.model.max_length or 0
        if (
            self.model.self_attention == "dense_synthesizer"
            and num_positions < self.data.max_length
        ):
            yield (
                "model.max_length",
                f"{wanted} for dense_synthesizer, found {self.model.max_length or 'null'}",
            )
        if self.train.batch_tokens < self.data.max_length:
            yield "train.batch_tokens", f"{wanted}, found {self.train.batch_tokens}"
