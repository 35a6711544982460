"""Start of a training from another run: `train.init_from` and `train.freeze`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mt.config.load import diff_configs, inherit_model, load_run_config
from mt.config.schema import Config, Section
from mt.data.tags import choose_tags
from mt.errors import ConfigError
from mt.experiment import Experiment, Tokenizers
from mt.model.transformer import Transformer
from mt.storage.checkpoint import find_checkpoint, load_weights
from mt.storage.run_dir import open_run_dir

logger = logging.getLogger(__name__)

# Keys that may differ from the other run: they change neither shape nor meaning of the weights.
KEYS_THAT_MAY_DIFFER = {
    "model.dropout",
    "model.attention_dropout",
    "model.activation_dropout",
    "model.embedding_dropout",
    "model.token_dropout",
    "tokenizer.bpe_dropout",
}


def inherit_from_parent(config: Config) -> Config:
    """Return the config with the model, tokenizer and normalization of `train.init_from`.

    Without `train.init_from`, the config is returned as it is. Raises ConfigError when the user set
    one of these keys to another value than that run has, RunDirError when there is no such run.
    """
    init_from = config.train.init_from
    if init_from is None:
        return config
    parent = load_run_config(open_run_dir(Path(init_from), key="train.init_from").config_path)
    if parent.model.tie_embeddings == "all" and not config.tokenizer.joint:
        raise ConfigError(
            f"tokenizer.joint: {init_from} shares one embedding matrix for both languages "
            "(model.tie_embeddings: all): wanted true, found false"
        )
    child = inherit_model(config, parent)
    child = _inherit_tags(child, parent)
    parent_parts: dict[str, Section] = {
        "model": parent.model,
        "data": child.data.model_copy(update={"normalization": parent.data.normalization}),
    }
    if child.train.init_tokenizer == "parent":
        parent_parts["tokenizer"] = parent.tokenizer
    differences = diff_configs(child.model_copy(update=parent_parts), child)
    forbidden = [
        str(difference) for difference in differences if difference.key not in KEYS_THAT_MAY_DIFFER
    ]
    if forbidden:
        listed = "\n  ".join(forbidden)
        raise ConfigError(
            f"train.init_from: {init_from} has another model, tokenizer or normalization; "
            f"remove or correct:\n  {listed}"
        )
    return child


def _inherit_tags(child: Config, parent: Config) -> Config:
    """Return the config of the child with the tags of the parent first, and then its own.

    Raises ConfigError if the user gives the control tokens another meaning.
    """
    parent_tags = choose_tags(parent.data)
    tags = choose_tags(child.data, parent_tags)
    if tags[: len(parent_tags)] != parent_tags:
        raise ConfigError(
            f"data.tags: wanted the tags of train.init_from first ({', '.join(parent_tags)}), "
            f"found {', '.join(tags)}"
        )
    data = child.data.model_copy(update={"tags": tags})
    return child.model_copy(update={"data": data})


def load_initial_weights(model: Transformer, experiment: Experiment) -> None:
    """Load the weights of the run `train.init_from`, or their moving averages if it has any.

    With a new tokenizer, tokens of the other run keep their embeddings, and the other tokens get
    what `train.init_new_tokens` says. Raises CheckpointError when there is no such checkpoint, or
    when it holds another model.
    """
    config = experiment.config.train
    if config.init_from is None:
        return
    if config.init_tokenizer == "new":
        parent = Experiment.open(config.init_from)
        parent_model = parent.translator(config.init_checkpoint, device="cpu").model
        copy_weights_to_new_vocabulary(
            model,
            parent_model,
            tokenizers=experiment.tokenizers,
            parent_tokenizers=parent.tokenizers,
            new_tokens=config.init_new_tokens,
        )
        return
    device = model.output_weight.device
    run_dir = open_run_dir(Path(config.init_from))
    load_weights(model, find_checkpoint(run_dir.checkpoints_dir, config.init_checkpoint))
    model.to(device)


def copy_weights_to_new_vocabulary(
    model: Transformer,
    parent: Transformer,
    *,
    tokenizers: Tokenizers,
    parent_tokenizers: Tokenizers,
    new_tokens: Literal["mean", "random"],
) -> None:
    """Copy the weights of `parent` into a model of the same shape with other tokenizers.

    The embedding of a token that both tokenizers have is copied; tags have the same names in all
    tokenizers. Any other one is the mean of the embeddings of the tokens into which the parent's
    tokenizer splits it, or stays as it is.
    """
    weights = dict(parent.state_dict())
    sides = {"src": "source", "tgt": "target", "output": "target"}
    done: set[str] = set()
    for role, name in model.embedding_names.items():
        if name in done:
            continue
        done.add(name)
        side = sides[role]
        tokenizer = tokenizers.src if side == "source" else tokenizers.tgt
        parent_tokenizer = parent_tokenizers.src if side == "source" else parent_tokenizers.tgt
        embeddings = model.embedding_weight(role).detach().cpu().clone()
        parent_embeddings = parent.embedding_weight(role).detach()
        num_shared = 0
        for token_id in range(tokenizer.vocab_size):
            piece = tokenizer.piece(token_id)
            parent_id = parent_tokenizer.find_piece(piece)
            if parent_id is not None:
                num_shared += 1
                embeddings[token_id] = parent_embeddings[parent_id]
            elif new_tokens == "mean":
                pieces = parent_tokenizer.split_piece(piece)
                embeddings[token_id] = parent_embeddings[pieces].mean(dim=0)
        weights[f"embeddings.{name}"] = embeddings
        start = "means of embeddings of the other run" if new_tokens == "mean" else "random numbers"
        logger.info(
            f"init_from: {num_shared:,} of {tokenizer.vocab_size:,} tokens ({name}) are those of "
            f"the other run; the embeddings of the others begin as {start}"
        )
    model.load_state_dict(weights)


def freeze_weights(model: Transformer, prefixes: Sequence[str]) -> None:
    """Exclude the weights with names that begin with one of the prefixes from training.

    A prefix must end at a dot of the name: `encoder_layers.1` is not `encoder_layers.10`. Raises
    ConfigError for a prefix without weights, and when no weight is left to train.
    """
    parameters = dict(model.named_parameters())
    for prefix in prefixes:
        names = [name for name in parameters if f"{name}.".startswith(f"{prefix}.")]
        if not names:
            beginnings = sorted({name.partition(".")[0] for name in parameters})
            raise ConfigError(
                f"train.freeze: no weights are called {prefix}: wanted one of "
                f"{', '.join(beginnings)}, or longer names such as {next(iter(parameters))}"
            )
        for name in names:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError("train.freeze: no weight is left to train")
