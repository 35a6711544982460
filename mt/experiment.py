"""The parts of a run (tokenizers, data, model, translator), made from its config and directory.

    text files --tokenizers--> training data --training--> checkpoint --translator--> translations

The config names text files. The run directory holds the files made from them. Training,
validation, `mt evaluate` and the dry run of `mt check` take their parts from here.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import torch

from mt.config.load import load_run_config
from mt.config.schema import Config
from mt.data.corpus import encode_corpus
from mt.data.counting import count_training_text
from mt.data.dataset import Dataset
from mt.data.eval_set import EvalSet, load_eval_set, training_corpora
from mt.data.progress import elapsed_time
from mt.data.source_stats import SourceStats
from mt.data.tags import choose_tags, tag_ids
from mt.data.temperature import sample_by_temperature
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import sample_sentences, train_tokenizer
from mt.decoding.translator import Translator
from mt.device import oom_as_device_error
from mt.errors import DataError
from mt.model.transformer import Transformer
from mt.storage.atomic import atomic_file
from mt.storage.run_dir import RunDir, open_run_dir

logger = logging.getLogger(__name__)


class Tokenizers(NamedTuple):
    """The tokenizers of the two languages.

    With `tokenizer.joint`, both are the same SentencePiece model.
    """

    src: Tokenizer
    tgt: Tokenizer


class Experiment:
    """A run's config and directory. Each part of the run is made when it is first needed."""

    def __init__(self, config: Config, run_dir: RunDir) -> None:
        self.config = config
        self.run_dir = run_dir

    @classmethod
    def open(cls, run_dir: str | Path) -> Self:
        """Return the experiment of an existing run directory. Raises RunDirError."""
        opened = open_run_dir(Path(run_dir))
        return cls(load_run_config(opened.config_path), opened)

    @cached_property
    def tokenizers(self) -> Tokenizers:
        """The run's tokenizers, without BPE-dropout.

        Raises TokenizerError before they have been trained.
        """
        src_path, tgt_path = self.run_dir.tokenizer_paths(self.config.tokenizer.joint)
        return Tokenizers(Tokenizer.load(src_path), Tokenizer.load(tgt_path))

    @cached_property
    def ids_by_tag(self) -> dict[str, int]:
        """The control token of each tag in front of sources. Raises TokenizerError."""
        return tag_ids(choose_tags(self.config.data), self.tokenizers.src)

    @cached_property
    def training_data(self) -> Dataset:
        """The encoded training pairs, read from the run's cache or written to it.

        Raises DataError.
        """
        config = self.config
        src_path, tgt_path = self.run_dir.tokenizer_paths(config.tokenizer.joint)
        bpe_dropout = config.tokenizer.bpe_dropout
        src = Tokenizer.load(src_path, bpe_dropout=bpe_dropout)
        tgt = Tokenizer.load(tgt_path, bpe_dropout=bpe_dropout)
        corpus = encode_corpus(
            training_corpora(config.data, ids_by_tag=self.ids_by_tag),
            src,
            tgt,
            max_length=config.data.max_length,
            max_length_ratio=config.data.max_length_ratio,
            cache_dir=self.run_dir.cache_dir,
            normalization=config.data.normalization,
        )
        if config.data.sampling_temperature != 1.0:
            corpus = sample_by_temperature(corpus, config.data)
        return Dataset(
            corpus,
            src,
            tgt,
            max_length=config.data.max_length,
            seed=config.train.seed,
            batching=config.train.batching,
            unseen_character_fraction=config.data.unseen_character_fraction,
        )

    @cached_property
    def source_stats(self) -> SourceStats | None:
        """What the training sources look like; None in runs of older versions.

        Raises RunDirError.
        """
        return SourceStats.load(self.run_dir.source_stats_path)

    @cached_property
    def validation_sets(self) -> list[EvalSet]:
        """The sets that are scored during training. Raises DataError."""
        return [load_eval_set(section, self.config.data) for section in self.config.data.valid]

    @property
    def validation_digest(self) -> str:
        """A hash of the lines of all validation sets. Raises DataError."""
        digests = [eval_set.digest for eval_set in self.validation_sets]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:32]

    @cached_property
    def evaluation_sets(self) -> list[EvalSet]:
        """The config's test sets, or its validation sets if it has none. Raises DataError."""
        if self.run_dir.is_export:
            raise DataError(
                f"{self.run_dir.path}: an export has no test text; name some: --src and --ref"
            )
        sections = self.config.data.test or self.config.data.valid
        return [load_eval_set(section, self.config.data) for section in sections]

    def count_training_text(self) -> None:
        """Read all training text once, so that a broken file shows early. Raises DataError."""
        data = self.config.data
        count_training_text(training_corpora(data), normalization=data.normalization)

    def train_tokenizers(self) -> None:
        """Train the tokenizers, or copy those that the config names, into the run directory."""
        section = self.config.tokenizer
        src_path, tgt_path = self.run_dir.tokenizer_paths(section.joint)
        init_from = self.config.train.init_from
        if init_from is not None and self.config.train.init_tokenizer == "parent":
            parent_src, parent_tgt = RunDir(Path(init_from)).tokenizer_paths(section.joint)
            self._make_tokenizer(src_path, str(parent_src), [])
            if not section.joint:
                self._make_tokenizer(tgt_path, str(parent_tgt), [])
            return
        texts = [corpus.text for corpus in training_corpora(self.config.data)]
        src_sides = [text.read_side("src") for text in texts]
        tgt_sides = [text.read_side("tgt") for text in texts]
        if section.joint:
            self._make_tokenizer(src_path, section.model, src_sides + tgt_sides)
        else:
            self._make_tokenizer(src_path, section.src_model, src_sides)
            self._make_tokenizer(tgt_path, section.tgt_model, tgt_sides)

    def measure_sources(self) -> None:
        """Write what the training sources look like to the run directory."""
        stats = SourceStats.measure(self.training_data.corpus)
        if stats is not None:
            stats.save(self.run_dir.source_stats_path)

    def model(self, device: torch.device) -> Transformer:
        """Return a new model on `device`, with initial weights from `train.seed`.

        Seeds PyTorch's generator. Raises DeviceError when memory is too small for the weights.
        """
        torch.manual_seed(self.config.train.seed)
        with oom_as_device_error("for this model's weights: use a smaller model.d_model or d_ff"):
            model = Transformer(
                self.config.model,
                src_vocab_size=self.tokenizers.src.vocab_size,
                tgt_vocab_size=self.tokenizers.tgt.vocab_size,
                pad_id=self.tokenizers.src.pad_id,
            ).to(device)
        if self.config.train.compile:
            # Shapes are dynamic, so a few compilations serve all lengths. Only `forward` is
            # compiled; search calls `decode`, which stays uncompiled.
            model.compile(dynamic=True)
        return model

    def translator(
        self,
        checkpoint: str = "best",
        *,
        device: str = "auto",
        beam_size: int | None = None,
        ensemble_with: Sequence[str | Path] = (),
    ) -> Translator:
        """Return the translator of a checkpoint of this run (see `Translator.load`)."""
        return Translator.load(
            self.run_dir.path,
            ensemble_with=ensemble_with,
            checkpoint=checkpoint,
            device=device,
            beam_size=beam_size,
        )

    def _make_tokenizer(
        self, path: Path, existing: str | None, texts: Sequence[Iterable[str]]
    ) -> None:
        """Copy an existing tokenizer model to `path`, or train one on the lines of the texts."""
        section = self.config.tokenizer
        if existing is not None:
            # Loading checks that this is a usable tokenizer; its bytes are copied unchanged.
            Tokenizer.load(Path(existing), bpe_dropout=section.bpe_dropout)
            with atomic_file(path) as file:
                file.write(Path(existing).read_bytes())
            return
        logger.info(f"tokenizer: training {section.kind} with {section.vocab_size:,} tokens")
        with elapsed_time("tokenizer"):
            train_tokenizer(
                sample_sentences(texts, max_sentences=section.max_sentences),
                path,
                kind=section.kind,
                vocab_size=section.vocab_size,
                character_coverage=section.character_coverage,
                normalization=self.config.data.normalization,
            )
