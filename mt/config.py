"""What a config may say: one frozen model a section, each key with its type, range, default and meaning."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mt.configfile import read_config_file, write_yaml
from mt.configkeys import differing_keys, first_mistake
from mt.errors import ConfigError


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def default(value: Any, description: str) -> Any:
    """Give a key its default and its line in the README's table of keys."""
    return Field(default=value, description=description)


Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0.98, le=1)]  # SentencePiece takes no other
Ratio = Annotated[float, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]  # becomes part of a file name or of a key in metrics.jsonl
FilePath = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]  # stored absolute: the run outlives the shell


class Section(BaseModel):
    """What all sections share: unknown keys, other types, nan and later changes are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (key, problem) for each combination of values that cannot work; keys are relative to this section."""
        return iter(())

    @model_validator(mode="before")
    @classmethod
    def _read_a_bare_heading_as_empty(cls, values: Any) -> Any:
        return {} if values is None else values

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> Self:
        for key, problem in self.conflicts():
            raise PydanticCustomError("conflict", "{problem}", {"key": key, "problem": problem})
        return self


class CorpusConfig(Section):
    """One parallel training corpus: two files, named by a common prefix or one by one."""

    prefix: FilePath | None = default(
        None, "files are `PREFIX.<src_lang>` and `PREFIX.<tgt_lang>`, or these with `.gz`"
    )
    src: FilePath | None = default(None, "source file, in place of prefix")
    tgt: FilePath | None = default(None, "target file, in place of prefix")
    weight: PositiveFloat = default(1.0, "times each pair is seen in an epoch; of a fraction, pairs are drawn")
    src_lang: Name | None = default(None, "source language of this corpus; null: data.src_lang")
    tgt_lang: Name | None = default(None, "target language of this corpus; null: data.tgt_lang")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.prefix is None and (self.src is None or self.tgt is None):
            yield "prefix", "wanted a prefix, or both src and tgt"
        if self.prefix is not None and (self.src is not None or self.tgt is not None):
            yield "prefix", "wanted either a prefix or src and tgt, found both"


class EvalSetConfig(Section):
    """A named set that is translated and scored, never trained on."""

    name: Name = Field(description="its name in logs, metrics.jsonl and `mt evaluate`")
    prefix: FilePath | None = default(
        None, "files are `PREFIX.<src_lang>` and `PREFIX.<tgt_lang>`, or these with `.gz`"
    )
    src: FilePath | None = default(None, "source file, in place of prefix")
    refs: tuple[FilePath, ...] = default((), "reference files, one or more, in place of prefix")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.prefix is None and (self.src is None or not self.refs):
            yield "prefix", "wanted a prefix, or both src and refs"
        if self.prefix is not None and (self.src is not None or self.refs):
            yield "prefix", "wanted either a prefix or src and refs, found both"


class DataConfig(Section):
    """Which text is learned from, which chooses the model, which scores it."""

    src_lang: Name = Field(description="language to translate from; the ending of source files")
    tgt_lang: Name = Field(description="language to translate into; the ending of target files")
    train: tuple[CorpusConfig, ...] = Field(min_length=1, description="corpora to learn from")
    valid: EvalSetConfig = Field(description="set that is scored during training and chooses the best checkpoint")
    test: tuple[EvalSetConfig, ...] = default((), "sets that `mt evaluate` scores")
    max_length: PositiveInt = default(256, "tokens a side, end mark included; longer training pairs are left out")
    max_length_ratio: Ratio = default(9.0, "most tokens of the longer side for each of the shorter, in training pairs")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        for index, corpus in enumerate(self.train):
            if corpus.tgt_lang not in (None, self.tgt_lang):
                yield f"train.{index}.tgt_lang", f"wanted data.tgt_lang ({self.tgt_lang}), found {corpus.tgt_lang}"
        names = [self.valid.name, *(test.name for test in self.test)]
        for index, name in enumerate(names[1:]):
            if name in names[: index + 1]:
                yield f"test.{index}.name", f"wanted a name of its own, found {name} a second time"


class TokenizerConfig(Section):
    """How text becomes token ids: a SentencePiece model to train, or one that exists."""

    kind: Literal["bpe", "unigram"] = default("bpe", "algorithm of a new tokenizer")
    joint: bool = default(True, "one tokenizer for both languages, or one for each")
    vocab_size: PositiveInt = default(8000, "tokens of a new tokenizer; of each, when not joint")
    character_coverage: Share = default(1.0, "share of the text's characters with a token; the rest become bytes")
    sampling: Probability = default(0.0, "probability of BPE-dropout in training; 0: off")
    model: FilePath | None = default(None, "existing joint .model file to use")
    src_model: FilePath | None = default(None, "existing source .model file to use, when not joint")
    tgt_model: FilePath | None = default(None, "existing target .model file to use, when not joint")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        existing = [key for key in ("model", "src_model", "tgt_model") if getattr(self, key) is not None]
        if self.sampling > 0 and self.kind != "bpe":
            yield "sampling", f"is BPE-dropout: wanted kind: bpe, found {self.kind}"
        if self.joint and {"src_model", "tgt_model"} & set(existing):
            yield existing[-1], "wanted no src_model and tgt_model with joint: true (model names a joint one)"
        if not self.joint and "model" in existing:
            yield "model", "wanted src_model and tgt_model with joint: false"
        if not self.joint and len(existing) == 1:
            yield existing[0], "wanted both src_model and tgt_model, found one"
        for key in ("kind", "vocab_size", "character_coverage"):
            if existing and getattr(self, key) != type(self).model_fields[key].default:
                yield key, f"shapes a new tokenizer, but {existing[0]} names an existing one"


class ModelConfig(Section):
    """The Transformer's shape (Vaswani et al., 2017)."""

    d_model: PositiveInt = default(256, "width of the states between layers")
    d_ff: PositiveInt = default(1024, "width inside the feed-forward layers")
    num_heads: PositiveInt = default(4, "attention heads; divides d_model")
    num_encoder_layers: PositiveInt = default(4, "layers that read the source")
    num_decoder_layers: PositiveInt = default(4, "layers that write the target")
    norm: Literal["pre", "post"] = default("pre", "layer norm before each sublayer, or after it")
    activation: Literal["relu", "gelu"] = default("relu", "non-linearity of the feed-forward layers")
    dropout: Probability = default(0.1, "dropout on each sublayer's output")
    attention_dropout: Probability = default(0.0, "dropout on attention weights")
    activation_dropout: Probability = default(0.0, "dropout inside the feed-forward layers")
    embedding_dropout: Probability | None = default(None, "dropout on embeddings; null: as dropout")
    tie_embeddings: Literal["all", "decoder", "none"] = default(
        "all", "all: source, target and output embeddings are one matrix; decoder: target and output; none: no two"
    )
    self_attention: Literal["dot_product"] = default("dot_product", "attention within a sentence")
    cross_attention: Literal["dot_product"] = default("dot_product", "attention from target to source")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.d_model % 2:
            yield "d_model", f"wanted an even number (positions are pairs of sine and cosine), found {self.d_model}"
        if self.d_model % self.num_heads:
            yield "num_heads", f"wanted a divisor of model.d_model ({self.d_model}), found {self.num_heads}"


class TrainConfig(Section):
    """How the model learns, for how long, and what is kept."""

    run_dir: FilePath | None = default(None, "directory of the run; null: runs/<name of the config file>")
    seed: Seed = default(1, "fixes all that is random")
    device: Literal["auto", "cpu", "cuda"] = default("auto", "where to compute; auto: cuda if there is one")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = default("auto", "number format of the layers; fp16: cuda only")
    max_tokens: PositiveInt = default(4096, "padded positions of the longer side in a batch")
    accumulate: PositiveInt = default(1, "batches summed into one update")
    optimizer: Literal["adamw", "adam"] = default("adamw", "weight decay decoupled (adamw), or in the gradient (adam)")
    learning_rate: PositiveFloat = default(7e-4, "highest learning rate, reached after the warm-up")
    schedule: Literal["inverse_sqrt", "cosine", "constant"] = default("inverse_sqrt", "course after the warm-up")
    warmup_steps: NonNegativeInt = default(1000, "updates of linear warm-up")
    betas: tuple[Probability, Probability] = default((0.9, 0.98), "Adam's decay rates of the two moments")
    epsilon: PositiveFloat = default(1e-9, "Adam's guard against division by zero")
    weight_decay: NonNegativeFloat = default(0.0, "pull of the weights towards zero")
    clip_norm: NonNegativeFloat = default(1.0, "longest gradient, as L2 norm; 0: no limit")
    label_smoothing: Probability = default(0.1, "probability taken from the right token and spread over all")
    max_steps: PositiveInt | None = default(None, "stop after so many updates")
    max_epochs: PositiveInt | None = default(None, "stop after so many passes over the data")
    max_minutes: PositiveFloat | None = default(None, "stop after so many minutes, validation included")
    validate_every: PositiveInt = default(500, "updates between validations")
    log_every: PositiveInt = default(50, "updates between lines in metrics.jsonl")
    save_every: PositiveInt | None = default(
        None, "updates between checkpoints beside those of validations; null: no others"
    )
    keep_checkpoints: PositiveInt = default(2, "newest checkpoints to keep, besides the best")
    metric: Literal["bleu", "chrf", "loss"] = default("bleu", "score on data.valid that chooses the best checkpoint")
    patience: PositiveInt | None = default(None, "stop after so many validations without a gain; null: never")
    num_samples: NonNegativeInt = default(3, "translations shown at each validation")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            yield "max_steps", "wanted an end to training: max_steps, max_epochs or max_minutes"
        if self.schedule == "cosine" and self.max_steps is None:
            yield "schedule", "cosine falls to zero at max_steps: wanted max_steps"
        if self.schedule == "cosine" and self.max_steps is not None and self.warmup_steps >= self.max_steps:
            yield "warmup_steps", f"wanted less than max_steps ({self.max_steps}), found {self.warmup_steps}"
        if self.device == "cpu" and self.precision == "fp16":
            yield "precision", "fp16 needs cuda: wanted auto, fp32 or bf16 with device: cpu"


class SearchConfig(Section):
    """How a translation is searched for, in validation too."""

    beam_size: PositiveInt = default(5, "hypotheses kept at each step; 1: greedy")
    length_penalty: NonNegativeFloat = default(1.0, "exponent p of score = log_prob / length^p; 0: none")
    max_length_factor: NonNegativeFloat = default(2.0, "longest translation: factor * source tokens + offset")
    max_length_offset: PositiveInt = default(20, "the offset in max_length_factor, in tokens")
    max_tokens: PositiveInt = default(8192, "padded source positions in a batch, counted once for each hypothesis")


class Config(Section):
    """All that a run depends on, besides the data's content."""

    data: DataConfig = Field(description="the text files")
    tokenizer: TokenizerConfig = default(TokenizerConfig(), "text to token ids")
    model: ModelConfig = default(ModelConfig(), "the network")
    train: TrainConfig = Field(description="the training")
    search: SearchConfig = default(SearchConfig(), "the translating")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.model.tie_embeddings == "all" and not self.tokenizer.joint:
            yield "model.tie_embeddings", "all shares one matrix, but tokenizer.joint is false: wanted decoder or none"
        if self.train.max_tokens < self.data.max_length:
            yield (
                "train.max_tokens",
                f"wanted data.max_length ({self.data.max_length}) or more, found {self.train.max_tokens}",
            )


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply overrides such as `train.learning_rate=3e-4`, and check all of it.

    ConfigError names the place and key of the first mistake, what was found there and what was wanted.
    """
    file = read_config_file(Path(path))
    for text in overrides:
        file = file.override(text)
    try:
        return Config.model_validate(file.values)
    except ValidationError as error:
        raise ConfigError(first_mistake(error.errors(), file, section=Config)) from None


def dump_config(config: Config) -> str:
    """Write a config as YAML that `load_config` reads back to an equal one."""
    return write_yaml(config.model_dump())


def diff_configs(old: Config, new: Config) -> list[str]:
    """List the keys that differ, one line each: `train.learning_rate: 0.001 -> 0.002`."""
    return differing_keys(old.model_dump(), new.model_dump())
