"""What a config may say: one frozen model a section, each key with its type, range, default and meaning."""

import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


def _absolute(path: str) -> str:
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", path):
        raise PydanticCustomError("path", "a path without control characters")
    return os.path.abspath(os.path.expanduser(path))


def default(value: Any, description: str) -> Any:
    """Give a key its default and its line in the README's table of keys."""
    return Field(default=value, description=description)


# Every number has bounds: what no machine could serve, a slip of the finger or a hostile file, is named, not obeyed.
Count = Annotated[int, Field(gt=0, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Length = Annotated[int, Field(gt=0, le=65_536)]  # tokens
Width = Annotated[int, Field(gt=0, le=65_536)]
NumLayers = Annotated[int, Field(gt=0, le=256)]
VocabSize = Annotated[int, Field(gt=0, le=500_000)]
BeamSize = Annotated[int, Field(gt=0, le=1000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0.98, le=1)]  # SentencePiece takes no other
Ratio = Annotated[float, Field(ge=1, le=10**6)]
Weight = Annotated[float, Field(gt=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=100)]
Exponent = Annotated[float, Field(ge=0, le=10)]
Factor = Annotated[float, Field(ge=0, le=100)]
Norm = Annotated[float, Field(ge=0, le=10**9)]
Minutes = Annotated[float, Field(gt=0, le=10**7)]
# A name becomes part of a file name or of a key in metrics.jsonl; a path is stored absolute: the run outlives a shell.
Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]
FilePath = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_absolute)]
AttentionKind = Literal["dot_product", "additive", "dense_synthesizer"]

PREFIX_MEANS = "files are `PREFIX.<src_lang>` and `PREFIX.<tgt_lang>`, or these with `.gz`"
MAX_PARAMETERS = 2 * 10**10  # no GPU of today trains as many with Adam


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

    prefix: FilePath | None = default(None, PREFIX_MEANS)
    src: FilePath | None = default(None, "source file, in place of prefix")
    tgt: FilePath | None = default(None, "target file, in place of prefix")
    weight: Weight = default(
        1.0, "times each pair is seen in an epoch; of a fraction, pairs are drawn"
    )
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
    prefix: FilePath | None = default(None, PREFIX_MEANS)
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
    train: tuple[CorpusConfig, ...] = Field(
        min_length=1, max_length=1000, description="corpora to learn from"
    )
    valid: EvalSetConfig = Field(
        description="set that is scored during training and chooses the best checkpoint"
    )
    test: tuple[EvalSetConfig, ...] = default((), "sets that `mt evaluate` scores")
    max_length: Length = default(
        256, "tokens a side, end mark included; longer training pairs are left out"
    )
    max_length_ratio: Ratio = default(
        9.0, "most tokens of the longer side for each of the shorter, in training pairs"
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        for index, corpus in enumerate(self.train):
            if corpus.tgt_lang not in (None, self.tgt_lang):
                yield (
                    f"train.{index}.tgt_lang",
                    f"wanted data.tgt_lang ({self.tgt_lang}), found {corpus.tgt_lang}",
                )
        names = [self.valid.name, *(test.name for test in self.test)]
        for index, name in enumerate(names[1:]):
            if name in names[: index + 1]:
                yield f"test.{index}.name", f"wanted a name of its own, found {name} a second time"


class TokenizerConfig(Section):
    """How text becomes token ids: a SentencePiece model to train, or one that exists."""

    kind: Literal["bpe", "unigram"] = default("bpe", "algorithm of a new tokenizer")
    joint: bool = default(True, "one tokenizer for both languages, or one for each")
    vocab_size: VocabSize = default(8000, "tokens of a new tokenizer; of each, when not joint")
    character_coverage: Share = default(
        1.0, "share of the text's characters with a token; the rest become bytes"
    )
    bpe_dropout: Probability = default(0.0, "probability of BPE-dropout in training; 0: off")
    model: FilePath | None = default(None, "existing joint .model file to use")
    src_model: FilePath | None = default(None, "existing source .model file to use, when not joint")
    tgt_model: FilePath | None = default(None, "existing target .model file to use, when not joint")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        existing = [
            key for key in ("model", "src_model", "tgt_model") if getattr(self, key) is not None
        ]
        if self.bpe_dropout > 0 and self.kind != "bpe":
            yield "bpe_dropout", f"is BPE-dropout: wanted kind: bpe, found {self.kind}"
        if self.joint and {"src_model", "tgt_model"} & set(existing):
            yield (
                existing[-1],
                "wanted no src_model and tgt_model with joint: true (model names a joint one)",
            )
        if not self.joint and "model" in existing:
            yield "model", "wanted src_model and tgt_model with joint: false"
        if not self.joint and len(existing) == 1:
            yield existing[0], "wanted both src_model and tgt_model, found one"
        for key in ("kind", "vocab_size", "character_coverage"):
            if existing and getattr(self, key) != type(self).model_fields[key].default:
                yield key, f"shapes a new tokenizer, but {existing[0]} names an existing one"


class ModelConfig(Section):
    """The Transformer's shape (Vaswani et al., 2017)."""

    d_model: Width = default(256, "width of the states between layers")
    d_ff: Width = default(1024, "width inside the feed-forward layers")
    num_heads: Width = default(4, "attention heads; divides d_model")
    num_encoder_layers: NumLayers = default(4, "layers that read the source")
    num_decoder_layers: NumLayers = default(4, "layers that write the target")
    norm: Literal["pre", "post"] = default("pre", "layer norm before each sublayer, or after it")
    activation: Literal["relu", "gelu"] = default(
        "relu", "non-linearity of the feed-forward layers"
    )
    dropout: Probability = default(0.1, "dropout on each sublayer's output")
    attention_dropout: Probability = default(0.0, "dropout on attention weights")
    activation_dropout: Probability = default(0.0, "dropout inside the feed-forward layers")
    embedding_dropout: Probability | None = default(None, "dropout on embeddings; null: as dropout")
    tie_embeddings: Literal["all", "decoder", "none"] = default(
        "all",
        "all: source, target and output embeddings are one matrix; decoder: target and output; none: no two",
    )
    self_attention: AttentionKind = default("dot_product", "attention within a sentence")
    cross_attention: AttentionKind = default(
        "dot_product", "from target to source; dense_synthesizer cannot"
    )
    max_length: Length | None = default(
        None,
        "positions that dense_synthesizer has weights for: data.max_length or more; null: with the other kinds",
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.d_model % 2:
            yield (
                "d_model",
                f"wanted an even number (positions are pairs of sine and cosine), found {self.d_model}",
            )
        if self.d_model % self.num_heads:
            yield (
                "num_heads",
                f"wanted a divisor of model.d_model ({self.d_model}), found {self.num_heads}",
            )
        if self.cross_attention == "dense_synthesizer":
            why = "makes its weights without a look at the source"
            yield "cross_attention", f"dense_synthesizer {why}: wanted dot_product or additive"
        if self.max_length is not None and self.self_attention != "dense_synthesizer":
            found = f"self_attention: {self.self_attention}, found {self.max_length}"
            yield (
                "max_length",
                f"counts the positions of dense_synthesizer: wanted null with {found}",
            )
        # Of each layer: four matrices for an attention, of which a decoder layer has two, and two of feed-forward.
        attention, feed_forward = 4 * self.d_model**2, 2 * self.d_model * self.d_ff
        positions = (
            self.num_heads * (self.max_length or 0) * self.d_model
        )  # a dense_synthesizer's weights for them
        size = self.num_encoder_layers * (attention + positions + feed_forward)
        size += self.num_decoder_layers * (2 * attention + positions + feed_forward)
        if size > MAX_PARAMETERS:
            yield (
                "d_model",
                f"wanted layers of at most {MAX_PARAMETERS:.0e} parameters in all, found {size:.0e}",
            )


class TrainConfig(Section):
    """How the model learns, for how long, and what is kept."""

    run_dir: FilePath | None = default(
        None, "directory of the run; null: runs/<name of the config file>"
    )
    seed: Seed = default(1, "fixes all that is random")
    device: Literal["auto", "cpu", "cuda"] = default(
        "auto", "where to compute; auto: cuda if there is one"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = default(
        "auto", "number format of the layers; fp16: cuda only"
    )
    compile: bool = default(
        False, "cuda only: have torch.compile fuse the layers, which takes a minute at the start"
    )
    batch_tokens: Count = default(4096, "padded positions of the longer side in a batch")
    gradient_accumulation: Count = default(1, "batches summed into one update")
    optimizer: Literal["adamw", "adam"] = default(
        "adamw", "weight decay decoupled (adamw), or in the gradient (adam)"
    )
    learning_rate: Rate = default(7e-4, "highest learning rate, reached after the warm-up")
    schedule: Literal["inverse_sqrt", "cosine", "constant"] = default(
        "inverse_sqrt", "course after the warm-up"
    )
    warmup_steps: CountOrZero = default(1000, "updates of linear warm-up")
    betas: tuple[Probability, Probability] = default(
        (0.9, 0.98), "Adam's decay rates of the two moments"
    )
    epsilon: Rate = default(1e-9, "Adam's guard against division by zero")
    weight_decay: Factor = default(0.0, "pull of the weights towards zero")
    clip_norm: Norm = default(1.0, "longest gradient, as L2 norm; 0: no limit")
    label_smoothing: Probability = default(
        0.1, "probability taken from the right token and spread over all"
    )
    max_steps: Count | None = default(None, "stop after so many updates")
    max_epochs: Count | None = default(None, "stop after so many passes over the data")
    max_minutes: Minutes | None = default(None, "stop after so many minutes, validation included")
    validate_every: Count = default(500, "updates between validations")
    log_every: Count = default(50, "updates between lines in metrics.jsonl")
    save_every: Count | None = default(
        None, "updates between checkpoints beside those of validations; null: no others"
    )
    keep_checkpoints: Count = default(2, "newest checkpoints to keep, besides the best")
    metric: Literal["bleu", "chrf", "loss"] = default(
        "bleu", "score on data.valid that chooses the best checkpoint"
    )
    max_skipped: Count = default(
        50, "stop at a log line after so many updates in a row without finite gradients"
    )
    patience: Count | None = default(
        None, "stop after so many validations without a gain; null: never"
    )
    num_samples: CountOrZero = default(3, "translations shown at each validation")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            yield "max_steps", "wanted an end to training: max_steps, max_epochs or max_minutes"
        if self.schedule == "cosine" and self.max_steps is None:
            yield "schedule", "cosine falls to zero at max_steps: wanted max_steps"
        if (
            self.schedule == "cosine"
            and self.max_steps is not None
            and self.warmup_steps >= self.max_steps
        ):
            yield (
                "warmup_steps",
                f"wanted less than max_steps ({self.max_steps}), found {self.warmup_steps}",
            )
        if self.device == "cpu" and self.compile:
            yield "compile", "is slower on a cpu: wanted false, or device: cuda"
        if self.device == "cpu" and self.precision == "fp16":
            yield "precision", "fp16 needs cuda: wanted auto, fp32 or bf16 with device: cpu"


class SearchConfig(Section):
    """How a translation is searched for, in validation too."""

    beam_size: BeamSize = default(5, "hypotheses kept at each step; 1: greedy")
    length_penalty: Exponent = default(1.0, "exponent p of score = log_prob / length^p; 0: none")
    max_length_factor: Factor = default(2.0, "longest translation: factor * source tokens + offset")
    max_length_offset: Length = default(20, "the offset in max_length_factor, in tokens")
    batch_tokens: Count = default(
        8192, "padded source positions in a batch, counted once for each hypothesis"
    )


class Config(Section):
    """All that a run depends on, besides the data's content."""

    data: DataConfig = Field(description="the text files")
    tokenizer: TokenizerConfig = default(TokenizerConfig(), "text to token ids")
    model: ModelConfig = default(ModelConfig(), "the network")
    train: TrainConfig = Field(description="the training")
    search: SearchConfig = default(SearchConfig(), "the translating")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.model.tie_embeddings == "all" and not self.tokenizer.joint:
            yield (
                "model.tie_embeddings",
                "all shares one matrix, but tokenizer.joint is false: wanted decoder or none",
            )
        wanted = f"wanted data.max_length ({self.data.max_length}) or more"
        if (
            self.model.self_attention == "dense_synthesizer"
            and (self.model.max_length or 0) < self.data.max_length
        ):
            yield (
                "model.max_length",
                f"{wanted} for dense_synthesizer, found {self.model.max_length or 'null'}",
            )
        if self.train.batch_tokens < self.data.max_length:
            yield "train.batch_tokens", f"{wanted}, found {self.train.batch_tokens}"
