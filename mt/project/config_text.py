"""Text of a config for new data, with a comment for each choice."""

import json
import re
from typing import NamedTuple

from mt.advice.advice import MAX_WARMUP_FRACTION
from mt.project.settings import (
    MachineFacts,
    RunLength,
    Settings,
    count_epochs,
    describe_epochs,
    describe_minutes,
)
from mt.project.text_facts import TextFacts
from mt.wording import count_of

# Text that is text in YAML without quotes. The words in the second pattern would be other values.
_PLAIN_TEXT = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.-]*")
_OTHER_VALUES = re.compile(r"null|true|false", re.IGNORECASE)

HIGH_DROPOUT = 0.3


class DataFiles(NamedTuple):
    """The text of a config: languages, and files. A file is named as in `data.valid: PATH`."""

    src_lang: str
    tgt_lang: str
    train: str
    valid: str
    test: str | None


class Entry(NamedTuple):
    """A key of a config, its value in YAML, and why it has this value."""

    key: str
    value: str
    comment: str = ""


def config_text(
    files: DataFiles,
    text: TextFacts,
    machine: MachineFacts,
    settings: Settings,
    length: RunLength,
    *,
    minutes: float,
    device: str,
    command: str,
) -> str:
    """Return a config in YAML. `command` made it, and `minutes` is the limit of its training.

    `device` is the one that the person asked for: "auto", "cpu" or "cuda".
    """
    num_epochs = count_epochs(settings, length, text)
    origin = "a measured row" if settings.row.measured else "a row that is not measured"
    lines = [
        f"# Made by: {' '.join(command.split())}",  # a name of a file can have a line end
        "#",
        f"# {count_of(text.num_pairs, 'pair')} for training, "
        f"about {text.tokens_per_epoch:,} tokens a side.",
        f"# In {describe_minutes(minutes)}, this machine ({machine.device}) can do about "
        f"{count_of(length.num_updates, 'update')}: {describe_epochs(num_epochs)}.",
        f"# The sizes are {origin} of the table in docs/recipes.md.",
        "# docs/configuration.md explains all keys; a key that is not here has its default.",
    ]
    sections = {
        "data": _data_entries(files),
        "tokenizer": _tokenizer_entries(text, settings),
        "model": _model_entries(settings, num_epochs),
        "train": _train_entries(settings, length, minutes=minutes, device=device),
    }
    for section, entries in sections.items():
        lines += ["", f"{section}:"]
        lines += [_format_entry(entry) for entry in entries]
    return "".join(f"{line}\n" for line in lines)


def yaml_text(text: str) -> str:
    """Return text as YAML, in quotes where it needs them."""
    is_plain = _PLAIN_TEXT.fullmatch(text) and not _OTHER_VALUES.fullmatch(text)
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _format_entry(entry: Entry) -> str:
    line = f"  {entry.key}: {entry.value}"
    return f"{line}  # {entry.comment}" if entry.comment else line


def _data_entries(files: DataFiles) -> list[Entry]:
    src_lang = yaml_text(files.src_lang)
    tgt_lang = yaml_text(files.tgt_lang)
    entries = [
        Entry("src_lang", src_lang),
        Entry("tgt_lang", tgt_lang),
        Entry("train", yaml_text(files.train), f"two files: .{src_lang} and .{tgt_lang}"),
        Entry("valid", yaml_text(files.valid), "scored during training, to choose the best model"),
    ]
    if files.test is not None:
        entries.append(Entry("test", yaml_text(files.test), "scored by mt evaluate only"))
    return entries


def _tokenizer_entries(text: TextFacts, settings: Settings) -> list[Entry]:
    entries = [
        Entry("vocab_size", str(settings.vocab_size), f"subwords, for {text.num_pairs:,} pairs")
    ]
    if settings.character_coverage < 1:
        comment = f"of {text.num_different_characters:,} characters, rare ones become bytes"
        entries.append(Entry("character_coverage", f"{settings.character_coverage:g}", comment))
    if settings.row.bpe_dropout > 0:
        comment = "other subwords each time, because the text is read often"
        entries.append(Entry("bpe_dropout", f"{settings.row.bpe_dropout:g}", comment))
    return entries


def _model_entries(settings: Settings, num_epochs: float) -> list[Entry]:
    size = settings.size
    num_parameters = size.num_parameters(settings.vocab_size)
    amount = "much" if settings.row.dropout >= HIGH_DROPOUT else "little"
    return [
        Entry("d_model", str(size.d_model), f"{num_parameters / 1e6:.1f} million parameters"),
        Entry("d_ff", str(size.d_ff)),
        Entry("num_heads", str(size.num_heads)),
        Entry("num_encoder_layers", str(size.num_layers)),
        Entry("num_decoder_layers", str(size.num_layers)),
        Entry("dropout", f"{settings.row.dropout:g}", f"{amount}: {describe_epochs(num_epochs)}"),
    ]


def _train_entries(
    settings: Settings, length: RunLength, *, minutes: float, device: str
) -> list[Entry]:
    size = settings.size
    entries = [Entry("device", device)] if device != "auto" else []
    return [
        *entries,
        Entry("max_minutes", f"{minutes:g}", "from the start of the command to its end"),
        Entry("batch_tokens", str(settings.batch_tokens), "of the longer side"),
        Entry("learning_rate", f"{size.learning_rate:g}", "a larger model needs a lower one"),
        Entry("schedule", "cosine", "the learning rate falls to 0 at the end of the run"),
        Entry(
            "warmup_steps",
            str(length.warmup_steps),
            f"at most {MAX_WARMUP_FRACTION:.0%} of the updates",
        ),
        Entry("validate_every", str(length.validate_every), "updates"),
        Entry("log_every", str(length.log_every), "updates"),
    ]
