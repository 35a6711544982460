"""What stands ready before the first update: tokenizers, encoded pairs, batches and a model, made from a config."""

import logging
from pathlib import Path

import numpy as np
import torch

from mt.config.schema import Config
from mt.data.corpus import EncodedCorpus, ParallelFiles, encode_corpus, encode_pairs
from mt.data.dataset import Dataset, Epoch
from mt.data.eval_set import EvalSet
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer_from_files
from mt.device import oom_as_device_error
from mt.distributed import Runtime
from mt.errors import DataError
from mt.model.transformer import Transformer
from mt.storage.atomic import atomic_file
from mt.storage.run_dir import RunDir
from mt.training.objective import Objective

logger = logging.getLogger(__name__)


def make_tokenizers(config: Config, run: RunDir, files: list[ParallelFiles]) -> None:
    """Train the run's tokenizers, or copy those that the config names."""
    section, (src, tgt) = config.tokenizer, run.tokenizers(config.tokenizer.joint)
    src_texts, tgt_texts = [pair.src for pair in files], [pair.tgt for pair in files]
    jobs = [(src, section.src_model, src_texts), (tgt, section.tgt_model, tgt_texts)]
    for path, existing, texts in (
        [(src, section.model, src_texts + tgt_texts)] if section.joint else jobs
    ):
        if existing is not None:
            Tokenizer.load(
                Path(existing), bpe_dropout=section.bpe_dropout
            )  # no other tokenizer than ours goes further
            with atomic_file(path) as file:
                file.write(Path(existing).read_bytes())
        else:
            logger.info(
                f"tokenizer: training {section.kind} of {section.vocab_size:,} tokens on {len(texts)} files"
            )
            size, coverage = section.vocab_size, section.character_coverage
            train_tokenizer_from_files(
                texts, path, kind=section.kind, vocab_size=size, character_coverage=coverage
            )


def load_tokenizers(config: Config, run: RunDir) -> tuple[Tokenizer, Tokenizer]:
    """The run's source and target tokenizer, as training samples from them."""
    bpe_dropout, seed = config.tokenizer.bpe_dropout, config.train.seed
    src, tgt = (
        Tokenizer.load(path, bpe_dropout=bpe_dropout, seed=seed)
        for path in run.tokenizers(config.tokenizer.joint)
    )
    return src, tgt


def encode_training_set(
    config: Config, run: RunDir, files: list[ParallelFiles], src: Tokenizer, tgt: Tokenizer
) -> EncodedCorpus:
    """The training pairs, from the run's cache or into it."""
    longest, ratio = config.data.max_length, config.data.max_length_ratio
    return encode_corpus(
        files, src, tgt, max_length=longest, max_length_ratio=ratio, cache_dir=run.cache
    )


def encode_validation_set(
    valid: EvalSet, src: Tokenizer, tgt: Tokenizer, *, config: Config
) -> EncodedCorpus:
    """The pairs of a set and its first reference.

    DataError for one with more tokens a side than the model has positions for, or else than memory: its loss takes the
    square of them. A line of ten times data.max_length is no sentence.
    """
    name, max_length = "ten times data.max_length", 10 * config.data.max_length
    if config.model.max_length is not None:
        name, max_length = "model.max_length", config.model.max_length
    pairs = encode_pairs(valid.src, valid.refs[0], src_tokenizer=src, tgt_tokenizer=tgt)
    lengths = np.maximum(pairs.src.lengths, pairs.tgt.lengths)
    if lengths.max() > max_length:
        line = int(np.argmax(lengths > max_length))
        raise DataError(
            f"{valid.name}: line {line + 1} has {lengths[line]} tokens; {name} is {max_length}"
        )
    return pairs


def open_epoch(
    number: int,
    config: Config,
    corpus: EncodedCorpus,
    src: Tokenizer,
    tgt: Tokenizer,
    *,
    batch_tokens: int,
) -> Epoch:
    """Return the batches of epoch `number`."""
    dataset = Dataset(corpus, src, tgt, config.data.max_length, config.train.seed)
    return dataset.epoch(number, batch_tokens=batch_tokens)


def make_model(config: Config, src: Tokenizer, tgt: Tokenizer, runtime: Runtime) -> Objective:
    """A new model with its loss, the same on every rank; the draws of dropout then differ from rank to rank.

    DeviceError when memory is too small for its weights.
    """
    torch.manual_seed(config.train.seed)
    sizes = {"src_vocab_size": src.vocab_size, "tgt_vocab_size": tgt.vocab_size}
    with oom_as_device_error("for this model's weights: wanted a smaller model.d_model or d_ff"):
        transformer = Transformer(config.model, **sizes, pad_id=src.pad_id).to(runtime.device)
    if (
        config.train.compile
    ):  # a few times for all lengths; search, whose steps are short, is left as it is
        transformer.compile(dynamic=True)
    torch.manual_seed(config.train.seed + 1 + runtime.rank)
    return Objective(transformer, label_smoothing=config.train.label_smoothing, dtype=runtime.dtype)
