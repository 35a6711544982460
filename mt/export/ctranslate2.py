"""mt export --to ctranslate2: a model and its tokenizers for CTranslate2.

CTranslate2 translates without PyTorch.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mt.config.schema import Config, ModelConfig
from mt.decoding.translator import Translator
from mt.errors import PackageError
from mt.export.directory import export_directory, require_replaceable
from mt.export.model_card import CardOptions, write_model_card
from mt.export.positions import num_positions
from mt.export.run import ExportedRun
from mt.export.tokens import language_tokens, vocabulary, write_language_tokens
from mt.model.feed_forward import GATED_ACTIVATIONS
from mt.model.layers import NORM_EPSILON, RMSNorm
from mt.model.positions import sinusoids
from mt.model.transformer import Transformer
from mt.storage.run_dir import CTRANSLATE2_MODEL

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
# Where the feed-forward layers have a gate, these entries replace and extend those above.
GATED_FEED_FORWARD_MODULES = {
    "ffn/linear_0": ["feed_forward.gate"],
    "ffn/linear_0_noact": ["feed_forward.inner"],
}

HOW_TO_LOAD = """\
`mt translate {directory} "A sentence."`, or without mt:

```python
import ctranslate2
import sentencepiece

tokenizer = sentencepiece.SentencePieceProcessor(model_file="{directory}/{src_tokenizer}")
translator = ctranslate2.Translator("{directory}", compute_type="float32")
source = tokenizer.encode(["A sentence."], out_type=str)
{add_tag}results = translator.translate_batch(source, beam_size={beam_size}, min_decoding_length=0)
{load_tgt_tokenizer}print({tgt_variable}.decode(results[0].hypotheses[0]))
```
"""


def export(
    run_dir: Path,
    directory: Path,
    *,
    quantization: str = "float32",
    checkpoint: str = "best",
    license_name: str | None = None,
) -> None:
    """Write the model, its vocabularies, its tokenizers and a model card to `directory`.

    The directory appears when all files are complete. It may replace an empty directory or an
    earlier export; anything else is a DiskError. Raises ConfigError for a kind of attention that
    CTranslate2 does not have, and PackageError if its package is not installed.
    """
    require_replaceable(directory)
    run = ExportedRun.load(run_dir, checkpoint=checkpoint)
    with export_directory(directory) as partial:
        write_model(run, partial, quantization=quantization)
        run.write_text_settings(partial)
        write_language_tokens(run.translator, partial)
        options = CardOptions(
            how_to_load=_how_to_load(run, directory.resolve().name),
            differences=differences(run),
            license=license_name,
        )
        write_model_card(partial, run, options)
    megabytes = (directory / CTRANSLATE2_MODEL).stat().st_size / 1e6
    logger.info(f"{directory}: {megabytes:.1f} MB, {quantization}, for ctranslate2.Translator")


def write_model(run: ExportedRun, directory: Path, *, quantization: str) -> None:
    """Write the files that ctranslate2.Translator reads. Raises as `export` does."""
    model = run.config.model
    unsupported = {model.self_attention, model.cross_attention} - {"dot_product"}
    if unsupported:
        raise run.config_error(
            "CTranslate2 supports only dot_product attention,"
            f" found {', '.join(sorted(unsupported))}"
        )
    spec = _make_spec(run.translator, run.config)
    spec.optimize(None if quantization == "float32" else quantization)
    spec.save(str(directory))


def differences(run: ExportedRun) -> list[str]:
    """Return how CTranslate2 differs from mt, for a model card."""
    sentences = [
        "It stops reading after 1,024 tokens (`max_input_length`) and writing after 256 "
        "(`max_decoding_length`); mt splits a long line into sentences.",
        "It can write tokens that mt never writes, such as a line break.",
    ]
    if run.config.data.normalization != "none":
        form = run.config.data.normalization.upper()
        sentences.append(
            f"The model knows text in Unicode {form} with single spaces. mt normalizes its input, "
            "and replaces characters without a token by similar ones; here the caller has to."
        )
    return sentences


def _how_to_load(run: ExportedRun, directory: str) -> str:
    """Return the section of the card on loading the export; `directory` is a name."""
    src_path, tgt_path = run.run_dir.tokenizer_paths(run.config.tokenizer.joint)
    load_tgt_tokenizer = ""
    tgt_variable = "tokenizer"
    if src_path != tgt_path:
        tgt_variable = "tgt_tokenizer"
        load_tgt_tokenizer = (
            "tgt_tokenizer = sentencepiece.SentencePieceProcessor("
            f'model_file="{directory}/{tgt_path.name}")\n'
        )
    add_tag = ""
    token = language_tokens(run.translator).get(run.config.data.tgt_lang)
    if token is not None:
        add_tag = f'source = [["{token}", *tokens] for tokens in source]\n'
    return HOW_TO_LOAD.format(
        directory=directory,
        src_tokenizer=src_path.name,
        add_tag=add_tag,
        beam_size=run.config.search.beam_size,
        load_tgt_tokenizer=load_tgt_tokenizer,
        tgt_variable=tgt_variable,
    )


def _make_spec(translator: Translator, config: Config) -> Any:
    """Return a TransformerSpec of CTranslate2 with a copy of all weights."""
    spec = _empty_spec(config.model)
    # By default, CTranslate2 begins a target with <s>, as mt does, but adds no </s> to a source.
    spec.config.add_source_eos = True
    # CTranslate2's default depends on the kind of norm.
    spec.config.layer_norm_epsilon = NORM_EPSILON
    spec.register_source_vocabulary(vocabulary(translator.src_tokenizer))
    spec.register_target_vocabulary(vocabulary(translator.tgt_tokenizer))
    _copy_model(spec, translator.model, config)
    spec.validate()
    return spec


def _empty_spec(shape: ModelConfig) -> Any:
    """Return a TransformerSpec for models of this shape, without weights and vocabularies."""
    specs = import_ctranslate2().specs
    activations = {
        "relu": specs.common_spec.Activation.RELU,
        "gelu": specs.common_spec.Activation.GELU,
        "swiglu": specs.common_spec.Activation.SWISH,
    }
    return specs.TransformerSpec.from_config(
        (shape.num_encoder_layers, shape.num_decoder_layers),
        shape.num_heads,
        pre_norm=shape.norm == "pre",
        activation=activations[shape.activation],
        ffn_glu=shape.activation in GATED_ACTIVATIONS,
        rms_norm=shape.norm_kind == "rms_norm",
    )


def _copy_model(spec: Any, model: Transformer, config: Config) -> None:
    """Copy all weights of the model, and the positions, which are no weights in it."""
    shape = config.model
    _copy_embeddings(spec, model)
    positions = sinusoids(torch.arange(num_positions(config)), shape.d_model)
    spec.encoder.position_encodings.encodings = positions
    spec.decoder.position_encodings.encodings = positions
    has_gates = shape.activation in GATED_ACTIVATIONS
    gate_modules = GATED_FEED_FORWARD_MODULES if has_gates else {}
    _copy_layers(spec.encoder, model.encoder_layers, ENCODER_LAYER_MODULES | gate_modules)
    _copy_layers(spec.decoder, model.decoder_layers, DECODER_LAYER_MODULES | gate_modules)
    _copy_final_norms(spec, model, shape)


def import_ctranslate2() -> Any:
    """Import CTranslate2, an optional dependency. Raises PackageError if it is not installed."""
    try:
        import ctranslate2.specs
    except ImportError as error:
        raise PackageError(
            f"cannot import the package ctranslate2 ({error});"
            " install it with pip install -e '.[ctranslate2]'"
        ) from error
    return ctranslate2


def _copy_embeddings(spec: Any, model: Transformer) -> None:
    """Copy the source and target embeddings and the output projection."""
    layers = {
        "src": spec.encoder.embeddings[0],
        "tgt": spec.decoder.embeddings,
        "output": spec.decoder.projection,
    }
    for role, layer in layers.items():
        layer.weight = model.embedding_weight(role).detach().clone()


def _copy_layers(stack: Any, layers: nn.ModuleList, modules: dict[str, list[str]]) -> None:
    """Copy the layers of the encoder or the decoder."""
    specs = import_ctranslate2().specs
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
