"""mt export: a trained model and its tokenizer in the format of CTranslate2, which translates without PyTorch."""

import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mt.config.load import load_config
from mt.config.schema import Config
from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import Translator
from mt.errors import ConfigError, DeviceError, DiskError
from mt.model.positions import sinusoids
from mt.storage.atomic import atomic_directory
from mt.storage.run_dir import open_run_dir

logger = logging.getLogger(__name__)

# CTranslate2's name of each norm and linear layer: ours, or two of ours whose rows it keeps together.
FEED_FORWARD = {
    "ffn/layer_norm": "feed_forward_residual.norm",
    "ffn/linear_0": "feed_forward.inner",
    "ffn/linear_1": "feed_forward.outer",
}
ENCODER_LAYER = FEED_FORWARD | {
    "self_attention/layer_norm": "attention_residual.norm",
    "self_attention/linear_0": "attention.query attention.key_value",
    "self_attention/linear_1": "attention.output",
}
DECODER_LAYER = FEED_FORWARD | {
    "self_attention/layer_norm": "self_residual.norm",
    "self_attention/linear_0": "self_attention.query self_attention.key_value",
    "self_attention/linear_1": "self_attention.output",
    "attention/layer_norm": "cross_residual.norm",
    "attention/linear_0": "cross_attention.query",
    "attention/linear_1": "cross_attention.key_value",
    "attention/linear_2": "cross_attention.output",
}
SPECIAL_PIECES = [
    "<pad>",
    "<unk>",
    "<s>",
    "</s>",
]  # CTranslate2's names of ids 0 to 3, whatever the tokenizer's
MARK = ".made_by_mt_export"  # an empty file, which says that what lies beside it may be replaced
OURS = re.compile(
    r"\.made_by_mt_export|model\.bin|config\.json|\w+_vocabulary\.json|tokenizer(\.src|\.tgt)?\.model"
)
MIN_POSITIONS = 2048  # where not told otherwise, CTranslate2 cuts a source at 1,024 tokens, a translation at 256


def export(
    run_dir: Path, directory: Path, *, quantization: str = "float32", checkpoint: str = "best"
) -> None:
    """Write `directory`, whole or not at all: the model, its vocabularies and its tokenizers.

    It takes the place of an empty directory or an earlier export, and of nothing else (DiskError). ConfigError for an
    attention that CTranslate2 does not have, DeviceError without its package.
    """
    run = open_run_dir(run_dir)
    config = load_config(run.config)
    if kinds := {config.model.self_attention, config.model.cross_attention} - {"dot_product"}:
        raise ConfigError(
            f"{run.config}: CTranslate2 has dot_product attention alone, found {', '.join(kinds)}"
        )
    if directory.exists() and not _is_ours(directory):
        raise DiskError(
            f"{directory}: is there, and is more than an earlier export: wanted a new name"
        )
    spec = _describe(Translator.load(run_dir, checkpoint=checkpoint, device="cpu"), config)
    spec.optimize(None if quantization == "float32" else quantization)
    with atomic_directory(directory.resolve()) as partial:
        spec.save(str(partial))
        for tokenizer in {*run.tokenizers(config.tokenizer.joint)}:
            shutil.copy(tokenizer, partial)
        (partial / MARK).touch()
    size = (directory / "model.bin").stat().st_size / 1e6
    logger.info(f"{directory}: {size:.1f} MB, {quantization}, for ctranslate2.Translator")


def _is_ours(directory: Path) -> bool:
    """Is it empty, or an earlier export with nothing added to it?"""
    if not directory.is_dir():
        return False
    found = {
        path.name: path.is_file() and OURS.fullmatch(path.name) is not None
        for path in directory.iterdir()
    }
    return not found or (MARK in found and all(found.values()))


def _describe(translator: Translator, config: Config) -> Any:
    """CTranslate2's TransformerSpec with a copy of every weight.

    Our positions have no end. Its table of them reaches as far as our rule for the longest translation of the longest
    source, and MIN_POSITIONS at least.
    """
    try:
        from ctranslate2.specs import TransformerSpec, common_spec
        from ctranslate2.specs.model_spec import index_spec
    except ImportError as error:
        wanted = "wanted it installed, as by pip install -e '.[ctranslate2]'"
        raise DeviceError(
            f"mt export: cannot import the package ctranslate2 ({error}): {wanted}"
        ) from error
    model, shape, search = translator.model, config.model, config.search
    num_layers = (shape.num_encoder_layers, shape.num_decoder_layers)
    activation = {"relu": common_spec.Activation.RELU, "gelu": common_spec.Activation.GELU}[
        shape.activation
    ]
    spec = TransformerSpec.from_config(
        num_layers, shape.num_heads, pre_norm=shape.norm == "pre", activation=activation
    )
    spec.config.add_source_eos = True  # that a target begins with <s>, it assumes
    spec.register_source_vocabulary(_pieces(translator.src_tokenizer))
    spec.register_target_vocabulary(_pieces(translator.tgt_tokenizer))
    longest = (
        math.ceil(search.max_length_factor * config.data.max_length) + search.max_length_offset
    )
    positions = sinusoids(torch.arange(max(longest, MIN_POSITIONS)), shape.d_model)
    embeddings = {
        "src": spec.encoder.embeddings[0],
        "tgt": spec.decoder.embeddings,
        "output": spec.decoder.projection,
    }
    for role, target in embeddings.items():
        target.weight = model.embedding_weight(role).detach().clone()
    for side, layers, norm, names in (
        (spec.encoder, model.encoder_layers, model.encoder_norm, ENCODER_LAYER),
        (spec.decoder, model.decoder_layers, model.decoder_norm, DECODER_LAYER),
    ):
        side.position_encodings.encodings = positions
        for target, layer in zip(side.layer, layers, strict=True):
            for name, ours in names.items():
                _fill(
                    index_spec(target, name), [layer.get_submodule(each) for each in ours.split()]
                )
        if shape.norm == "pre":
            _fill(side.layer_norm, [norm])
    spec.validate()
    return spec


def _fill(spec: Any, modules: list[nn.Module]) -> None:
    """Set a norm or a linear layer of CTranslate2's to the weights and the biases of ours, row after row."""
    names = ("gamma", "beta") if hasattr(spec, "gamma") else ("weight", "bias")
    for name, part in zip(names, ("weight", "bias"), strict=True):
        setattr(spec, name, torch.cat([getattr(module, part).detach() for module in modules]))


def _pieces(tokenizer: Tokenizer) -> list[str]:
    return SPECIAL_PIECES + [
        tokenizer.piece(i) for i in range(len(SPECIAL_PIECES), tokenizer.vocab_size)
    ]
