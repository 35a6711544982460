"""The model card of an export: README.md, for the people who get the model.

It has the names of the training files without their folders, so no path of the author is in it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import mt
from mt.config.schema import CorpusConfig, DataConfig, EvalSetConfig
from mt.config.yaml_file import write_yaml
from mt.export.portable_config import portable_values
from mt.export.run import ExportedRun
from mt.export.tokens import language_tokens
from mt.training.metrics_log import (
    MetricsLine,
    ScoreScope,
    SetResult,
    read_scope,
    read_scores,
    read_sets,
)
from mt.wording import count_of

CARD_FILE = "README.md"
SETTINGS = ("model", "tokenizer", "train", "search")  # the sections of the config on a card


@dataclass(frozen=True)
class CardOptions:
    """Content of a card that the run does not give."""

    how_to_load: str  # Markdown
    differences: Sequence[str]  # between the program and mt, one sentence each
    license: str | None = None


def write_model_card(directory: Path, run: ExportedRun, options: CardOptions) -> None:
    """Write README.md into a directory."""
    (directory / CARD_FILE).write_text(model_card(run, options), encoding="utf-8")


def model_card(run: ExportedRun, options: CardOptions) -> str:
    """Return the card as Markdown, with the front matter of a Hugging Face model card."""
    pairs = run.config.data.language_pairs
    directions = ", ".join(f"{pair.src} → {pair.tgt}" for pair in pairs)
    sections = [
        _front_matter(run, options.license),
        f"# {directions}\n",
        f"A translation model, trained with mt and exported by mt {mt.__version__}.\n",
        f"## Use\n\n{options.how_to_load.strip()}\n",
        _target_languages(run),
        _differences(options.differences),
        f"## Training\n\n{_table(('', ''), _training_facts(run))}",
        f"## Scores\n\n{_scores(run)}",
        _license(options.license),
        f"## Settings\n\n```yaml\n{_settings(run)}```\n",
    ]
    return "\n".join(section for section in sections if section)


def _front_matter(run: ExportedRun, license_name: str | None) -> str:
    """Return the fields that programs read, as YAML. The values are JSON, which is YAML too."""
    pairs = run.config.data.language_pairs
    languages = dict.fromkeys(language for pair in pairs for language in pair)
    fields: dict[str, Any] = {"language": list(languages)}
    if license_name is not None:
        fields["license"] = license_name
    fields["pipeline_tag"] = "translation"
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items()]
    return f"---\n{''.join(lines)}---\n"


def _target_languages(run: ExportedRun) -> str:
    """Return a table of the tokens that choose the target language, if there are several."""
    tokens = language_tokens(run.translator)
    if not tokens:
        return ""
    rows = [(language, f"`{token}`") for language, token in tokens.items()]
    return (
        "## Target languages\n\nThe first token of a source chooses the target language. "
        f"`mt translate` puts it there (`--to`).\n\n{_table(('language', 'token'), rows)}"
    )


def _differences(differences: Sequence[str]) -> str:
    if not differences:
        return ""
    items = "".join(f"- {sentence}\n" for sentence in differences)
    return f"## Differences from `mt translate`\n\n{items}"


def _training_facts(run: ExportedRun) -> list[tuple[str, ...]]:
    """Return the rows of the table about the training."""
    data = run.config.data
    return [
        ("training text", _list_files(data, data.train)),
        ("validation text", _list_files(data, data.valid)),
        ("normalization of text", data.normalization),
        ("tokens", f"{run.translator.tgt_tokenizer.vocab_size:,} ({run.config.tokenizer.kind})"),
        ("parameters", f"{run.translator.model.num_parameters:,}"),
        ("weights", _weights(run)),
    ]


def _list_files(data: DataConfig, sections: Sequence[CorpusConfig | EvalSetConfig]) -> str:
    """Return the names of the files of corpora or sets, each once, without their folders."""
    names = chain.from_iterable(data.file_names(section) for section in sections)
    return ", ".join(dict.fromkeys(names))


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
    """Yield the rows of the table of scores: those of each set."""
    data = run.config.data
    scope = read_scope(line)
    sets = read_sets(line)
    if not sets:
        of_lines = "" if scope is None else str(scope)
        yield from _rows_of_set(data.valid[0].name, line, of_lines)
    names = {}
    for section in data.valid:
        languages = data.languages(section)
        names[section.name] = f"{section.name} ({languages.src} → {languages.tgt})"
    for item in sets:
        name = names.get(item.name, item.name)
        yield from _rows_of_set(name, item.values(), _lines_of_set(item, scope))


def _rows_of_set(name: str, scores: MetricsLine, of_lines: str) -> Iterator[tuple[str, ...]]:
    """Yield a row for each score of a set."""
    for metric, score in read_scores(scores).items():
        yield name, metric, f"{score:.1f}", of_lines, f"`{scores['signatures'][metric]}`"


def _lines_of_set(item: SetResult, scope: ScoreScope | None) -> str:
    """Return which lines of one of several sets were scored."""
    if scope is None:
        return count_of(item.num_lines, "line")
    # `scope` is that of all sets together. How many lines this set has in all is not recorded.
    scored_lines = ScoreScope(item.num_lines, item.num_lines, scope.beam_size)
    if scope.is_sample:
        return f"a sample of {scored_lines}"
    return str(scored_lines)


def _license(license_name: str | None) -> str:
    if license_name is None:
        return "## License\n\nNot stated. Ask the author before you use or share this model.\n"
    return f"## License\n\n{license_name}\n"


def _settings(run: ExportedRun) -> str:
    values = portable_values(run.config)
    return write_yaml({section: values[section] for section in SETTINGS})


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(_table_line(line) for line in lines)


def _table_line(cells: tuple[str, ...]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |\n"
