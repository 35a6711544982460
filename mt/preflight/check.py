"""mt check: what is wrong with a config and its files, and what a run would cost, before the hours are spent."""

import json
import logging
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mt.cli.streams import standard_output
from mt.config.load import load_run_config
from mt.config.schema import Config, CorpusConfig, DataConfig, EvalSetConfig
from mt.data.eval_set import find_files
from mt.distributed import Runtime, open_runtime
from mt.errors import ConfigError, DataError, DeviceError, MtError
from mt.preflight import checks
from mt.preflight.checks import Finding
from mt.preflight.dry_run import try_training
from mt.preflight.languages import LanguageOdds, learn_odds
from mt.preflight.resume_check import prove_resume
from mt.preflight.survey import ParallelSurvey, survey_file
from mt.storage.run_dir import RunDir
from mt.training.run import forbidden_changes, read_config, resolve_auto

logger = logging.getLogger(__name__)

WIDTH, INDENT = 118, 22  # columns of the report


class Surveys(NamedTuple):
    """The files of a config as pairs of sides: a set with several references is several pairs."""

    valid: list[ParallelSurvey]
    train: list[ParallelSurvey]
    test: list[ParallelSurvey]


def check(
    path: Path, overrides: Sequence[str] = (), *, device: str | None, resume: bool
) -> Iterator[Finding]:
    """Look at everything, the cheapest first; what needs sound files comes last, and only if they are sound."""
    try:
        config = read_config(path, overrides, run_dir=None, device=device)
        yield Finding(
            "ok", "config", "", f"{path}: {config.data.src_lang} to {config.data.tgt_lang}"
        )
        runtime, is_sound = None, True
        try:
            runtime = open_runtime(config.train.device)
        except DeviceError as error:
            yield Finding("error", "device", "", str(error))
        for finding in inspect_files(config.data):
            is_sound = is_sound and finding.level != "error"
            yield finding
        if runtime is not None and is_sound:
            yield from rehearse_run(config, runtime, resume=resume)
        else:
            yield Finding("note", "training", "", "not tried: what is wrong above comes first")
    except (MtError, OSError) as error:
        yield Finding(
            "error", "config" if isinstance(error, ConfigError) else "training", "", str(error)
        )


def inspect_files(data: DataConfig) -> Iterator[Finding]:
    """Findings about the text files of a config."""
    surveys, missing = survey_files(data)
    yield from missing
    pairs = [*surveys.train, *surveys.valid, *surveys.test]
    sides = {side.path: side for pair in pairs for side in (pair.src, pair.tgt)}.values()
    faults = [finding for side in sides for finding in checks.find_faults(side)]
    yield from faults or _all_well(
        "encoding", "all lines are UTF-8, without invisible line separators"
    )
    yield from (finding for pair in pairs for finding in checks.find_steps(pair))
    in_train = {pair.name for pair in surveys.train}
    blanks = [f for pair in pairs for f in checks.find_blanks(pair, is_train=pair.name in in_train)]
    yield from blanks or _all_well("blank lines", "none")
    duplicates = [finding for pair in surveys.train for finding in checks.find_duplicates(pair)]
    yield from duplicates or _all_well("duplicates", "none in train")
    others = [*surveys.valid, *surveys.test]
    overlap = [finding for pair in others for finding in checks.find_overlap(pair, surveys.train)]
    names = " or ".join(pair.name for pair in others)
    yield from overlap or _all_well("overlap", f"no source sentence of {names} is in train")
    yield from find_mix_ups(surveys)
    yield from map(checks.describe_lengths, surveys.train)


def survey_files(data: DataConfig) -> tuple[Surveys, list[Finding]]:
    """Read every file once, the validation set first: it teaches how the two languages look."""
    surveys, missing = Surveys([], [], []), []
    odds: LanguageOdds | None = None
    sections: list[tuple[list[ParallelSurvey], str, EvalSetConfig | CorpusConfig]]
    sections = [
        (surveys.valid, data.valid.name, data.valid),
        *((surveys.test, each.name, each) for each in data.test),
    ]
    several = len(data.train) > 1
    sections += [
        (surveys.train, f"train.{i}" if several else "train", each)
        for i, each in enumerate(data.train)
    ]
    for pairs, name, section in sections:
        is_usual = isinstance(section, EvalSetConfig) or section.src_lang in (None, data.src_lang)
        try:
            src, tgts = find_files(section, data)
            logger.info(f"reading {name}")
            src_side = survey_file(src, odds if is_usual else None)
            for number, tgt in enumerate(tgts, 1):
                whole_name = f"{name} ref {number}" if len(tgts) > 1 else name
                pairs.append(ParallelSurvey(whole_name, src_side, survey_file(tgt, odds)))
        except DataError as error:
            missing.append(Finding("error", "files", "", str(error)))
        if pairs is surveys.valid and pairs:
            odds = learn_odds(pairs[0].src.trigrams, pairs[0].tgt.trigrams)
    return surveys, missing


def find_mix_ups(surveys: Surveys) -> Iterator[Finding]:
    """Sides swapped or mixed; if all other sets, and they are several, have them otherwise, the validation set has."""
    if not surveys.valid:
        return
    valid, others = surveys.valid[0], [*surveys.train, *surveys.test]
    judged = {pair.name: checks.find_mix_ups(pair, valid) for pair in others}
    findings = [finding for found in judged.values() for finding in found]
    swapped = {
        name
        for name, found in judged.items()
        if any("swapped" in finding.numbers for finding in found)
    }
    if len(swapped) == len(others) > 1:
        text = f"{valid.name}: its sides are swapped: all other sets have them the other way round"
        findings = [Finding("error", "languages", str(valid.src.path), text)]
    elif swapped:
        agreeing = ", ".join(name for name in judged if name not in swapped)
        whose = f"; {agreeing}: as in {valid.name}" if agreeing else "; one of the two is wrong"
        findings = [
            replace(f, text=f.text + whose) if "swapped" in f.numbers else f for f in findings
        ]
    findings += checks.find_mix_ups(valid, valid)
    is_clear = learn_odds(valid.src.trigrams, valid.tgt.trigrams) is not None
    text = (
        "each side is in one language"
        if is_clear
        else "the two sides look alike, and were not told apart"
    )
    yield from findings or _all_well("languages", text)


def rehearse_run(config: Config, runtime: Runtime, *, resume: bool) -> Iterator[Finding]:
    """Findings about the training itself, all of it done in a temporary directory."""
    assert config.train.run_dir is not None, "read_config gives every run a directory"
    real = RunDir(Path(config.train.run_dir))
    asked, before = (
        config,
        load_run_config(real.config) if (real.checkpoints / "last").is_file() else None,
    )
    config, runtime = resolve_auto(config, before, runtime)
    if before is not None:
        changed = "; ".join(forbidden_changes(before, config))
        told = (
            f"of another config: {changed}" if changed else "already: mt train would go on with it"
        )
        text = f"{real.path} holds a run {told} (--run-dir chooses another)"
        yield Finding("error" if changed else "note", "config", "", text)
        if changed:  # it would be another run, with tokenizers and a precision of its own
            before, (config, runtime) = None, resolve_auto(asked, None, runtime)
    with TemporaryDirectory(prefix="mt-check-") as directory:
        trial = RunDir(Path(directory) / "trial")
        yield from try_training(config, runtime, trial, real=real, has_begun=before is not None)
        if resume:
            yield from prove_resume(config, runtime, trial, directory=Path(directory))


def report(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print findings as they come and the verdict, or all as one JSON object; the exit code."""
    found: list[Finding] = []
    with standard_output() as file:
        for finding in findings:
            repeated = bool(found) and found[-1].what == finding.what
            found.append(finding)
            if not as_json:
                file.write(f"{as_text(finding, with_topic=not repeated)}\n".encode())
                file.flush()
        code, said = int(any(finding.level == "error" for finding in found)), f"\n{verdict(found)}"
        if as_json:
            answer = {
                "verdict": verdict(found),
                "exit_code": code,
                "findings": [asdict(finding) for finding in found],
            }
            said = json.dumps(answer, ensure_ascii=False, indent=2)
        file.write(f"{said}\n".encode())
    return code


def verdict(findings: Sequence[Finding]) -> str:
    """The report in one line."""
    errors = [finding for finding in findings if finding.level == "error"]
    num_warnings = sum(finding.level == "warning" for finding in findings)
    if errors:
        more = f" (and {len(errors) - 1:,} more)" if len(errors) > 1 else ""
        return f"not ready: {errors[0].what}: {errors[0].text}{more}"
    if num_warnings:
        return f"ready with {num_warnings:,} warning{'s' if num_warnings > 1 else ''}"
    return "ready"


def as_text(finding: Finding, *, with_topic: bool) -> str:
    """Topic, mark and text in columns; below, the place, as short as it can be written."""
    head = f"{finding.what if with_topic else '':<12} {finding.level.replace('error', 'ERROR'):<8} "
    lines = textwrap.wrap(
        finding.text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False
    )
    if finding.where:
        lines.append(min(finding.where, os.path.relpath(finding.where), key=len))
    return head + f"\n{'':{INDENT}}".join(lines)


def _all_well(what: str, text: str) -> list[Finding]:
    return [Finding("ok", what, "", text)]
