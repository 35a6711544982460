"""The command `mt clean`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mt.cleaning.rules import KEPT, RULES_OF_HELD_OUT, CleaningRules, Rule
from mt.cli.options import QuietOption, VerboseOption
from mt.cli.text_options import (
    ColumnsOption,
    FilesArgument,
    SrcLangOption,
    TgtLangOption,
    open_text,
)
from mt.errors import DataError

if TYPE_CHECKING:
    from mt.cleaning.cleaning import Cleaning, HeldOut

RULE_NAMES = ", ".join(rule.label for rule in Rule)


def clean(
    files: FilesArgument,
    src_lang: SrcLangOption,
    tgt_lang: TgtLangOption,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="PREFIX",
            help="writes PREFIX.<src_lang> and PREFIX.<tgt_lang>",
        ),
    ],
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="validation or test text: a TSV or TMX file, or a prefix. Its sources are left "
            "out, and the languages are learned from it. May be given again",
        ),
    ] = None,
    max_length: Annotated[int, typer.Option(min=1, help="words of a side")] = 100,
    max_length_ratio: Annotated[
        float, typer.Option(min=1.0, help="words of the longer side to those of the shorter")
    ] = 3.0,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help=f"do not use a rule: {RULE_NAMES}"),
    ] = None,
    columns: ColumnsOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a text without its bad pairs, and count these by the rule that leaves them out."""
    from mt.cleaning.cleaning import judge_text, learn_held_out, write_kept
    from mt.cli.streams import write_lines
    from mt.data.split_files import refuse_existing

    rules = CleaningRules(
        max_length=max_length,
        max_length_ratio=max_length_ratio,
        without=frozenset(_find_rule(name) for name in without or ()),
    )
    paths = (Path(f"{output}.{src_lang}"), Path(f"{output}.{tgt_lang}"))
    for path in paths:
        refuse_existing(path)
    text = open_text(files, src_lang=src_lang, tgt_lang=tgt_lang, columns=columns)
    held_out_texts = [
        open_text([name], src_lang=src_lang, tgt_lang=tgt_lang, columns=None)
        for name in held_out or ()
    ]
    learned = learn_held_out(held_out_texts) if held_out_texts else None
    cleaning = judge_text(text, rules, held_out=learned)
    if cleaning.count(KEPT) == 0:
        raise DataError(f"{text.name}: no pair is left of {len(cleaning.verdicts):,}")
    write_kept(text, cleaning, paths=paths)
    write_lines(describe_cleaning(cleaning, rules, held_out=learned, name=text.name, paths=paths))


def _find_rule(name: str) -> Rule:
    """Return the rule that `--without` names. Raises BadParameter."""
    for rule in Rule:
        if rule.label == name:
            return rule
    raise typer.BadParameter(f"wanted one of {RULE_NAMES}; found {name}", param_hint="--without")


def describe_rule(rule: Rule, rules: CleaningRules) -> str:
    """Return which pairs a rule leaves out."""
    descriptions = {
        Rule.ENCODING: "not UTF-8",
        Rule.CONTROL: "with an invisible character at which other programs end a line",
        Rule.BLANK: "with a blank side",
        Rule.LENGTH: f"with a side of more than {rules.max_length} words",
        Rule.LENGTH_RATIO: (
            f"with one side more than {rules.max_length_ratio:g} times as long as the other"
        ),
        Rule.SCRIPT: "in another script",
        Rule.COPY: "with the same text on both sides",
        Rule.LANGUAGE: "in the language of the other side",
        Rule.HELD_OUT: "with a source that is in the held-out text",
        Rule.DUPLICATE: "the same as an earlier one",
    }
    return descriptions[rule]


def describe_cleaning(
    cleaning: "Cleaning",
    rules: CleaningRules,
    *,
    held_out: "HeldOut | None",
    name: str,
    paths: tuple[Path, Path],
) -> Iterator[str]:
    """Yield lines with the number of pairs: all, those that each rule drops, those that stay."""
    yield f"{len(cleaning.verdicts):11,} pairs in {name}"
    for rule in Rule:
        if rule in rules.without:
            continue
        if held_out is None and rule in RULES_OF_HELD_OUT:
            continue
        if held_out is not None and held_out.log_odds is None and rule is Rule.LANGUAGE:
            yield f"{'?':>11} {rule.label}: the two languages are too similar to be told apart"
            continue
        yield f"{cleaning.count(rule):11,} {rule.label}: {describe_rule(rule, rules)}"
    yield f"{cleaning.count(KEPT):11,} kept, in {paths[0]} and {paths[1]}"
    if held_out is None:
        labels = ", ".join(rule.label for rule in RULES_OF_HELD_OUT)
        yield f"Not used without --held-out: {labels}. Give the validation and test text."
