"""mt export --to transformers: a directory that AutoTokenizer and AutoModelForSeq2SeqLM load.

A pre-norm model of mt is exported as a Pegasus model, a post-norm model as a Marian model. Both
have the same sinusoidal positions, scaled embeddings and layers as mt. The files are written
without Transformers, which is not a dependency of mt.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mt.data.tokenizer import BOS_ID, EOS_ID, PAD_ID
from mt.export.directory import export_directory, require_replaceable
from mt.export.model_card import CardOptions, write_model_card
from mt.export.positions import max_translation_length, num_positions
from mt.export.run import ExportedRun
from mt.export.tokens import language_tokens, write_language_tokens
from mt.export.transformers_tokenizer import tokenizer_json
from mt.model.positions import sinusoids
from mt.storage.checkpoint import save_tensors

logger = logging.getLogger(__name__)

# The name of the architecture and of its class, by `model.norm`.
ARCHITECTURES = {
    "pre": ("pegasus", "PegasusForConditionalGeneration"),
    "post": ("marian", "MarianMTModel"),
}

# The modules of a layer in mt, and the modules of Transformers that get their rows, in order.
ENCODER_LAYER_MODULES = {
    "attention.query": ["self_attn.q_proj"],
    "attention.key_value": ["self_attn.k_proj", "self_attn.v_proj"],
    "attention.output": ["self_attn.out_proj"],
    "attention_residual.norm": ["self_attn_layer_norm"],
    "feed_forward.inner": ["fc1"],
    "feed_forward.outer": ["fc2"],
    "feed_forward_residual.norm": ["final_layer_norm"],
}
DECODER_LAYER_MODULES = {
    "self_attention.query": ["self_attn.q_proj"],
    "self_attention.key_value": ["self_attn.k_proj", "self_attn.v_proj"],
    "self_attention.output": ["self_attn.out_proj"],
    "self_residual.norm": ["self_attn_layer_norm"],
    "cross_attention.query": ["encoder_attn.q_proj"],
    "cross_attention.key_value": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "cross_attention.output": ["encoder_attn.out_proj"],
    "cross_residual.norm": ["encoder_attn_layer_norm"],
    "feed_forward.inner": ["fc1"],
    "feed_forward.outer": ["fc2"],
    "feed_forward_residual.norm": ["final_layer_norm"],
}

HOW_TO_LOAD = """\
```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{directory}")
model = AutoModelForSeq2SeqLM.from_pretrained("{directory}")
source = tokenizer(["A sentence."], return_tensors="pt", padding=True)
{choose_language}print(tokenizer.batch_decode(model.generate(**source), skip_special_tokens=True))
```

It needs Transformers 4.57 or newer, no code of its own and no network.
"""


def export(
    run_dir: Path, directory: Path, *, checkpoint: str = "best", license_name: str | None = None
) -> None:
    """Write the model, its tokenizer and a model card to `directory`.

    The directory appears when all files are complete. It may replace an empty directory or an
    earlier export; anything else is a DiskError. Raises ConfigError for a setting that the
    architectures of Transformers do not have.
    """
    require_replaceable(directory)
    run = ExportedRun.load(run_dir, checkpoint=checkpoint)
    _require_supported(run)
    with export_directory(directory) as partial:
        contents = {
            "config.json": _config(run),
            "generation_config.json": _generation_config(run),
            "tokenizer.json": tokenizer_json(run),
            "tokenizer_config.json": _tokenizer_config(run),
        }
        for name, content in contents.items():
            text = json.dumps(content, ensure_ascii=False, indent=1)
            (partial / name).write_text(text, encoding="utf-8")
        weights = dict(_weights(run))
        write_language_tokens(run.translator, partial)
        save_tensors(weights, partial / "model.safetensors", metadata={"format": "pt"})
        options = CardOptions(
            how_to_load=_how_to_load(run, directory.resolve().name),
            differences=_differences(run),
            license=license_name,
        )
        write_model_card(partial, run, options)
    logger.info(f"{directory}: for AutoModelForSeq2SeqLM of Transformers")


def _how_to_load(run: ExportedRun, directory: str) -> str:
    """Return the section of the card on loading the export; `directory` is a name."""
    choose_language = ""
    tokens = language_tokens(run.translator)
    if tokens:
        default = run.config.data.tgt_lang
        choose_language = (
            f"# The tokenizer chooses {default}. The first token chooses the language:\n"
            'source["input_ids"][:, 0] = '
            f'tokenizer.convert_tokens_to_ids("{tokens[default]}")  # {default}\n'
        )
    return HOW_TO_LOAD.format(directory=directory, choose_language=choose_language)


def _require_supported(run: ExportedRun) -> None:
    """Raise ConfigError for a setting that the architectures do not have."""
    if not run.config.tokenizer.joint:
        raise run.config_error(
            "tokenizer.joint: Transformers needs one tokenizer for both languages"
        )
    model = run.config.model
    wanted = {
        "model.self_attention": (model.self_attention, {"dot_product"}),
        "model.cross_attention": (model.cross_attention, {"dot_product"}),
        "model.activation": (model.activation, {"relu", "gelu"}),
        "model.norm_kind": (model.norm_kind, {"layer_norm"}),
        # Version 5 loads other values too. Version 4 would use one matrix without a message.
        "model.tie_embeddings": (model.tie_embeddings, {"all"}),
    }
    for key, (value, supported) in wanted.items():
        if value not in supported:
            raise run.config_error(
                f"{key}: Transformers has no architecture of this kind with {value}, "
                f"only with {' or '.join(sorted(supported))}"
            )


def _config(run: ExportedRun) -> dict[str, Any]:
    model = run.config.model
    model_type, class_name = ARCHITECTURES[model.norm]
    return {
        "architectures": [class_name],
        "model_type": model_type,
        "is_encoder_decoder": True,
        "vocab_size": run.translator.tgt_tokenizer.vocab_size,
        "d_model": model.d_model,
        "encoder_layers": model.num_encoder_layers,
        "decoder_layers": model.num_decoder_layers,
        "encoder_attention_heads": model.num_heads,
        "decoder_attention_heads": model.num_heads,
        "encoder_ffn_dim": model.d_ff,
        "decoder_ffn_dim": model.d_ff,
        "activation_function": model.activation,
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "activation_dropout": model.activation_dropout,
        "max_position_embeddings": num_positions(run.config),
        "scale_embedding": True,
        "tie_word_embeddings": True,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "decoder_start_token_id": BOS_ID,
        "forced_eos_token_id": None,  # the default of Pegasus is an id
        "dtype": "float32",
    }


def _generation_config(run: ExportedRun) -> dict[str, Any]:
    """Return settings that make the search of Transformers as similar to ours as possible."""
    search = run.config.search
    settings: dict[str, Any] = {
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "decoder_start_token_id": BOS_ID,
        "suppress_tokens": list(run.translator.tgt_tokenizer.forbidden_ids),
        "max_length": 1 + max_translation_length(run.config),  # the start token counts too
        "num_beams": search.beam_size,
    }
    if search.beam_size > 1:  # Transformers warns of them without beams
        settings["length_penalty"] = search.length_penalty
        settings["early_stopping"] = True
    return settings


def _tokenizer_config(run: ExportedRun) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": num_positions(run.config),
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # "<s>" in a text is three characters
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _weights(run: ExportedRun) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of the model with its name in Transformers."""
    model = run.translator.model
    shape = run.config.model
    embeddings = model.embedding_weight("output").detach().clone()  # the only matrix
    yield "model.shared.weight", embeddings
    yield "final_logits_bias", torch.zeros(1, len(embeddings))  # our model has none
    positions = sinusoids(torch.arange(num_positions(run.config)), shape.d_model)
    stacks = {
        "encoder": (model.encoder_layers, model.encoder_norm, ENCODER_LAYER_MODULES),
        "decoder": (model.decoder_layers, model.decoder_norm, DECODER_LAYER_MODULES),
    }
    for name, (layers, norm, modules) in stacks.items():
        yield f"model.{name}.embed_positions.weight", positions.clone()
        for index, layer in enumerate(layers):
            for own_name, names in modules.items():
                prefixes = [f"model.{name}.layers.{index}.{part}" for part in names]
                yield from _module_weights(layer.get_submodule(own_name), prefixes)
        if shape.norm == "pre":
            yield from _module_weights(norm, [f"model.{name}.layer_norm"])


def _module_weights(module: nn.Module, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weight and the bias of a module; each name gets an equal part of the rows."""
    for kind in ("weight", "bias"):
        rows = getattr(module, kind).detach().chunk(len(names))
        for name, part in zip(names, rows, strict=True):
            yield f"{name}.{kind}", part.clone()


def _differences(run: ExportedRun) -> list[str]:
    """Return how Transformers differs from mt, for a model card."""
    config = run.config
    factor = config.search.max_length_factor
    offset = config.search.max_length_offset
    differences = [
        "It translates a long line, or several sentences, as a whole; mt splits them.",
        f"It stops writing after {max_translation_length(config):,} tokens; mt writes at most "
        f"{factor:g} times as many tokens as the source has, and {offset} more.",
    ]
    if run.translator.ids_by_language:
        differences.append(
            "Its tokenizer is for sources: it puts the tag of a target language in front of a text."
        )
    return differences
