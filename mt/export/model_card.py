"""The model card of an export: README.md, for the people who get the model.

It names the files of the training text without their places, so nothing of the author's machine is
in it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mt
from mt.config.schema import CorpusConfig, EvalSetConfig
from mt.config.yaml_file import write_yaml
from mt.export.portable_config import portable_values
from mt.export.run import ExportedRun
from mt.training.metrics_log import MetricsLine, read_scope

CARD_FILE = "README.md"
SETTINGS = ("model", "tokenizer", "train", "search")  # the sections of the config on a card


@dataclass(frozen=True)
class CardOptions:
    """What a card says besides the facts of the run."""

    how_to_load: str  # Markdown
    differences: Sequence[str]  # what the program does otherwise than mt, a sentence each
    license: str | None = None


def write_model_card(directory: Path, run: ExportedRun, options: CardOptions) -> None:
    """Write README.md into a directory."""
    (directory / CARD_FILE).write_text(model_card(run, options), encoding="utf-8")


def model_card(run: ExportedRun, options: CardOptions) -> str:
    """Return the card as Markdown, with the front matter of a Hugging Face model card."""
    data = run.config.data
    sections = [
        _front_matter(run, options.license),
        f"# {data.src_lang} → {data.tgt_lang}\n",
        f"A model that translates from {data.src_lang} to {data.tgt_lang}, trained with mt and "
        f"exported by mt {mt.__version__}.\n",
        f"## Use\n\n{options.how_to_load.strip()}\n",
        _differences(options.differences),
        f"## Training\n\n{_table(('', ''), _training_facts(run))}",
        f"## Scores\n\n{_scores(run)}",
        _license(options.license),
        f"## Settings\n\n```yaml\n{_settings(run)}```\n",
    ]
    return "\n".join(section for section in sections if section)


def _front_matter(run: ExportedRun, license_name: str | None) -> str:
    """Return the fields that programs read; a JSON value is a YAML value too."""
    data = run.config.data
    fields: dict[str, Any] = {"language": [data.src_lang, data.tgt_lang]}
    if license_name is not None:
        fields["license"] = license_name
    fields["pipeline_tag"] = "translation"
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items()]
    return f"---\n{''.join(lines)}---\n"


def _differences(differences: Sequence[str]) -> str:
    if not differences:
        return ""
    items = "".join(f"- {sentence}\n" for sentence in differences)
    return f"## Differences from `mt translate`\n\n{items}"


def _training_facts(run: ExportedRun) -> list[tuple[str, ...]]:
    """Return the rows of the table about the training."""
    data = run.config.data
    model = run.translator.model
    langs = (data.src_lang, data.tgt_lang)
    training_files = []
    for corpus in data.train:
        corpus_langs = (corpus.src_lang or data.src_lang, corpus.tgt_lang or data.tgt_lang)
        training_files += _file_names(corpus, corpus_langs)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    return [
        ("training text", ", ".join(training_files)),
        ("validation text", ", ".join(_file_names(data.valid, langs))),
        ("normalization of text", data.normalization),
        ("tokens", f"{run.translator.tgt_tokenizer.vocab_size:,} ({run.config.tokenizer.kind})"),
        ("parameters", f"{num_parameters:,}"),
        ("weights", _weights(run)),
    ]


def _file_names(section: CorpusConfig | EvalSetConfig, langs: tuple[str, str]) -> list[str]:
    """Return the names of the files of a corpus or a set, without their folders."""
    if section.prefix is not None:
        return [f"{Path(section.prefix).name}.{lang}" for lang in langs]
    references = section.refs if isinstance(section, EvalSetConfig) else (section.tgt,)
    paths = (section.src, *references, section.tsv, section.tmx)
    return [Path(path).name for path in paths if path is not None]


def _weights(run: ExportedRun) -> str:
    """Return which updates the weights are from."""
    if "average_of" in run.meta:
        return f"average of {', '.join(run.meta['average_of'])}"
    if run.config.train.ema_decay > 0.0:
        return f"update {run.step:,}, moving average"
    return f"update {run.step:,}"


def _scores(run: ExportedRun) -> str:
    """Return a table with the scores of these weights that training recorded."""
    line = run.scores_line
    if line is None:
        return "The run has no scores of these weights.\n"
    return _table(("set", "metric", "score", "of", "signature"), list(_score_rows(run, line)))


def _score_rows(run: ExportedRun, line: MetricsLine) -> Iterator[tuple[str, ...]]:
    scope = read_scope(line)
    for metric, signature in line["signatures"].items():
        score = line.get(metric)
        if score is not None:
            of_lines = "" if scope is None else str(scope)
            yield run.config.data.valid.name, metric, f"{score:.1f}", of_lines, f"`{signature}`"


def _license(license_name: str | None) -> str:
    if license_name is None:
        return "## License\n\nNot stated. Ask the author before you use or share this model.\n"
    return f"## License\n\n{license_name}\n"


def _settings(run: ExportedRun) -> str:
    values = portable_values(run.config)
    return write_yaml({section: values[section] for section in SETTINGS})


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(_table_line(line) for line in lines)


def _table_line(cells: tuple[str, ...]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |\n"
