"""mt export: a trained model and its tokenizers in the format of CTranslate2.

CTranslate2 translates without PyTorch.
"""

import json
import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mt.config.load import load_run_config
from mt.config.schema import Config, ModelConfig
from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import Translator
from mt.errors import ConfigError, DeviceError, DiskError
from mt.model.feed_forward import GATED_ACTIVATIONS
from mt.model.layers import NORM_EPSILON, RMSNorm
from mt.model.positions import sinusoids
from mt.model.transformer import Transformer
from mt.storage.atomic import atomic_directory
from mt.storage.run_dir import open_run_dir

logger = logging.getLogger(__name__)

# The norms and linear layers of CTranslate2's specification, and our modules with their weights.
# Where there are two modules, CTranslate2 has one layer with the rows of both.
FEED_FORWARD_MODULES = {
    "ffn/layer_norm": ["feed_forward_residual.norm"],
    "ffn/linear_0": ["feed_forward.inner"],
    "ffn/linear_1": ["feed_forward.outer"],
}
ENCODER_LAYER_MODULES = FEED_FORWARD_MODULES | {
    "self_attention/layer_norm": ["attention_residual.norm"],
    "self_attention/linear_0": ["attention.query", "attention.key_value"],
    "self_attention/linear_1": ["attention.output"],
}
DECODER_LAYER_MODULES = FEED_FORWARD_MODULES | {
    "self_attention/layer_norm": ["self_residual.norm"],
    "self_attention/linear_0": ["self_attention.query", "self_attention.key_value"],
    "self_attention/linear_1": ["self_attention.output"],
    "attention/layer_norm": ["cross_residual.norm"],
    "attention/linear_0": ["cross_attention.query"],
    "attention/linear_1": ["cross_attention.key_value"],
    "attention/linear_2": ["cross_attention.output"],
}
# They replace and extend the above where the feed-forward layers have a gate.
GATED_FEED_FORWARD_MODULES = {
    "ffn/linear_0": ["feed_forward.gate"],
    "ffn/linear_0_noact": ["feed_forward.inner"],
}

# CTranslate2's names of ids 0 to 3. It does not use the names in the tokenizer.
SPECIAL_PIECES = ["<pad>", "<unk>", "<s>", "</s>"]

# Unless its caller sets other limits, CTranslate2 cuts sources after 1,024 tokens and translations
# after 256. The table of positions is at least long enough for that.
MIN_POSITIONS = 2048

# An export contains this empty file, as a sign that it may be replaced by a newer one.
MARKER_FILE = ".made_by_mt_export"
# A model of several target languages has this file, with the token that begins a source for each.
TAGS_FILE = "target_languages.json"
EXPORTED_FILE_NAMES = re.compile(
    rf"{re.escape(MARKER_FILE)}|model\.bin|config\.json|\w+_vocabulary\.json"
    rf"|tokenizer(\.src|\.tgt)?\.model|{re.escape(TAGS_FILE)}"
)


def export(
    run_dir: Path, directory: Path, *, quantization: str = "float32", checkpoint: str = "best"
) -> None:
    """Write the model, its vocabularies and its tokenizers to `directory`.

    The directory appears when all files are complete. It may replace an empty directory or an
    earlier export; anything else is a DiskError. Raises ConfigError for a kind of attention that
    CTranslate2 does not have, and DeviceError if its package is not installed.
    """
    run = open_run_dir(run_dir)
    config = load_run_config(run.config_path)
    unsupported = {config.model.self_attention, config.model.cross_attention} - {"dot_product"}
    if unsupported:
        raise ConfigError(
            f"{run.config_path}: CTranslate2 supports only dot_product attention,"
            f" found {', '.join(sorted(unsupported))}"
        )
    if directory.exists() and not _is_replaceable(directory):
        raise DiskError(
            f"{directory}: exists and was not written by mt export; choose another directory"
        )
    translator = Translator.load(run_dir, checkpoint=checkpoint, device="cpu")
    spec = _make_spec(translator, config)
    spec.optimize(None if quantization == "float32" else quantization)
    with atomic_directory(directory.resolve()) as partial:
        spec.save(str(partial))
        for tokenizer in set(run.tokenizer_paths(config.tokenizer.joint)):
            shutil.copy(tokenizer, partial)
        if translator.ids_by_language:
            _write_tags(translator, partial / TAGS_FILE)
        (partial / MARKER_FILE).touch()
    megabytes = (directory / "model.bin").stat().st_size / 1e6
    logger.info(f"{directory}: {megabytes:.1f} MB, {quantization}, for ctranslate2.Translator")


def _is_replaceable(directory: Path) -> bool:
    """Return whether a path is an empty directory, or an export to which nothing was added."""
    if not directory.is_dir():
        return False
    paths = list(directory.iterdir())
    if not paths:
        return True
    if MARKER_FILE not in {path.name for path in paths}:
        return False
    return all(path.is_file() and EXPORTED_FILE_NAMES.fullmatch(path.name) for path in paths)


def _write_tags(translator: Translator, path: Path) -> None:
    """Write the first token of a source for each target language: {"de": "<tag_0>"}."""
    tokens = {
        language: translator.src_tokenizer.piece(token_id)
        for language, token_id in translator.ids_by_language.items()
    }
    path.write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")


def _make_spec(translator: Translator, config: Config) -> Any:
    """Return a TransformerSpec of CTranslate2 with a copy of all weights."""
    specs = _import_specs()
    activations = {
        "relu": specs.common_spec.Activation.RELU,
        "gelu": specs.common_spec.Activation.GELU,
        "swiglu": specs.common_spec.Activation.SWISH,
    }
    shape = config.model
    has_gates = shape.activation in GATED_ACTIVATIONS
    spec = specs.TransformerSpec.from_config(
        (shape.num_encoder_layers, shape.num_decoder_layers),
        shape.num_heads,
        pre_norm=shape.norm == "pre",
        activation=activations[shape.activation],
        ffn_glu=has_gates,
        rms_norm=shape.norm_kind == "rms_norm",
    )
    spec.config.add_source_eos = True  # CTranslate2 begins targets with <s> by default
    # CTranslate2's default depends on the kind of norm.
    spec.config.layer_norm_epsilon = NORM_EPSILON
    spec.register_source_vocabulary(_pieces(translator.src_tokenizer))
    spec.register_target_vocabulary(_pieces(translator.tgt_tokenizer))

    model = translator.model
    _copy_embeddings(spec, model)
    positions = sinusoids(torch.arange(_num_positions(config)), shape.d_model)
    spec.encoder.position_encodings.encodings = positions
    spec.decoder.position_encodings.encodings = positions
    gate_modules = GATED_FEED_FORWARD_MODULES if has_gates else {}
    encoder_modules = ENCODER_LAYER_MODULES | gate_modules
    decoder_modules = DECODER_LAYER_MODULES | gate_modules
    _copy_layers(spec.encoder, model.encoder_layers, encoder_modules, specs)
    _copy_layers(spec.decoder, model.decoder_layers, decoder_modules, specs)
    _copy_final_norms(spec, model, shape)
    spec.validate()
    return spec


def _import_specs() -> Any:
    """Import the model specifications of CTranslate2, an optional dependency."""
    try:
        import ctranslate2.specs
    except ImportError as error:
        raise DeviceError(
            f"mt export: cannot import the package ctranslate2 ({error});"
            " install it with pip install -e '.[ctranslate2]'"
        ) from error
    return ctranslate2.specs


def _num_positions(config: Config) -> int:
    """Return the length of CTranslate2's table of positions; our model computes any position.

    It covers the longest translation that our search allows for the longest source sentence.
    """
    search = config.search
    max_tgt_length = math.ceil(search.max_length_factor * config.data.max_length)
    max_tgt_length += search.max_length_offset
    return max(max_tgt_length, MIN_POSITIONS)


def _copy_embeddings(spec: Any, model: Transformer) -> None:
    """Copy the source and target embeddings and the output projection."""
    layers = {
        "src": spec.encoder.embeddings[0],
        "tgt": spec.decoder.embeddings,
        "output": spec.decoder.projection,
    }
    for role, layer in layers.items():
        layer.weight = model.embedding_weight(role).detach().clone()


def _copy_layers(
    stack: Any, layers: nn.ModuleList, modules: dict[str, list[str]], specs: Any
) -> None:
    """Copy the layers of the encoder or the decoder."""
    for target, layer in zip(stack.layer, layers, strict=True):
        for target_name, module_names in modules.items():
            sources = [layer.get_submodule(name) for name in module_names]
            _copy_weights(specs.model_spec.index_spec(target, target_name), sources)


def _copy_final_norms(spec: Any, model: Transformer, shape: ModelConfig) -> None:
    """Copy the norms after the last layers, which only a pre-norm model has."""
    if shape.norm == "pre":
        _copy_weights(spec.encoder.layer_norm, [model.encoder_norm])
        _copy_weights(spec.decoder.layer_norm, [model.decoder_norm])


def _copy_weights(target: Any, modules: list[nn.Module]) -> None:
    """Set a norm or linear layer of CTranslate2 to the concatenated rows of our modules."""
    is_norm = hasattr(target, "gamma")
    weight_name = "gamma" if is_norm else "weight"
    bias_name = "beta" if is_norm else "bias"
    setattr(target, weight_name, _concatenate(modules, "weight"))
    if not isinstance(modules[0], RMSNorm):
        setattr(target, bias_name, _concatenate(modules, "bias"))


def _concatenate(modules: list[nn.Module], parameter: str) -> torch.Tensor:
    return torch.cat([getattr(module, parameter).detach() for module in modules])


def _pieces(tokenizer: Tokenizer) -> list[str]:
    """Return the vocabulary in order of ids."""
    ordinary_ids = range(len(SPECIAL_PIECES), tokenizer.vocab_size)
    return SPECIAL_PIECES + [tokenizer.piece(token_id) for token_id in ordinary_ids]
