"""All checks of a config, its text files and a short training, as a stream of findings."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

from mt.config.choices import Normalization
from mt.config.load import fill_unset_keys, load_run_config
from mt.config.schema import (
    Config,
    CorpusConfig,
    DataConfig,
    EvalSetConfig,
    LanguagePair,
    TrainConfig,
)
from mt.data.eval_set import load_eval_set
from mt.data.parallel_text import Side, parallel_texts
from mt.data.progress import bytes_bar
from mt.distributed import Runtime, open_runtime
from mt.errors import ConfigError, DataError, DeviceError, MtError
from mt.evaluation.evaluate import scoring_of_run
from mt.evaluation.text_warnings import find_text_problems
from mt.preflight import file_checks
from mt.preflight.dry_run import try_training
from mt.preflight.file_checks import Finding
from mt.preflight.kill_test import check_resume
from mt.preflight.languages import TrigramLogOdds, learn_log_odds
from mt.preflight.survey import FileSurvey, ParallelSurvey, survey_side
from mt.storage.checkpoint import has_checkpoint
from mt.storage.run_dir import RunDir
from mt.training.init_from import inherit_from_parent
from mt.training.resume_rules import forbidden_changes
from mt.training.run import read_config, recorded_precision, resolve_auto

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What tells the two languages of a pair apart; None: they are too similar.
LogOddsByLanguages = dict[LanguagePair, TrigramLogOdds | None]


class Surveys(NamedTuple):
    """Surveys of all text files of a config. A set with several references has several surveys."""

    valid: list[ParallelSurvey]
    test: list[ParallelSurvey]
    train: list[ParallelSurvey]


def check(
    path: Path, overrides: Sequence[str] = (), *, device: str | None, resume: bool
) -> Iterator[Finding]:
    """Yield the findings about the config at `path`, the quickest checks first.

    An MtError or OSError, such as a mistake in the config or a full disk, is the last finding.
    """
    try:
        yield from _check_all(path, overrides, device=device, resume=resume)
    except ConfigError as error:
        yield Finding("error", "config", "", str(error))
    except (MtError, OSError) as error:
        yield Finding("error", "training", "", str(error))


def _check_all(
    path: Path, overrides: Sequence[str], *, device: str | None, resume: bool
) -> Iterator[Finding]:
    config = read_config(path, overrides, run_dir=None, device=device)
    directions = [f"{pair.src} to {pair.tgt}" for pair in config.data.language_pairs]
    yield Finding("ok", "config", "", f"{path}: {', '.join(directions)}")

    runtime = None
    try:
        runtime = open_runtime(config.train.device)
    except DeviceError as error:
        yield Finding("error", "device", "", str(error))

    complete_config = _complete(config)
    files_are_sound = True
    for finding in check_files(complete_config.data):
        if finding.level == "error":
            files_are_sound = False
        yield finding
    if files_are_sound:
        yield check_scoring(complete_config)

    if runtime is not None and files_are_sound:
        yield from check_training(config, runtime, resume=resume)
    else:
        yield Finding("note", "training", "", "not tried: fix the errors above first")


# Text files


def _complete(config: Config) -> Config:
    """Return the config with the values of the run that it would resume or start from."""
    assert config.train.run_dir is not None, "read_config gives every run a directory"
    run_dir = RunDir(Path(config.train.run_dir))
    if has_checkpoint(run_dir.checkpoints_dir):
        return fill_unset_keys(config, load_run_config(run_dir.config_path))
    return inherit_from_parent(config)


def check_files(data: DataConfig) -> Iterator[Finding]:
    """Yield the findings about the text files of a config."""
    surveys, errors = survey_files(data)
    yield from errors

    train = surveys.train
    evaluation = [*surveys.valid, *surveys.test]
    all_surveys = [*train, *evaluation]
    train_names = [survey.name for survey in train]
    evaluation_names = " or ".join(survey.name for survey in evaluation)
    yield from check_each(
        "encoding",
        distinct_files(all_surveys),
        file_checks.check_encoding,
        if_none="all lines are UTF-8, without invisible line separators",
    )
    for survey in all_surveys:
        yield file_checks.check_alignment(survey)
    yield from check_each(
        "set size",
        evaluation,
        file_checks.check_set_size,
        if_none="large enough for scores",
    )
    yield from check_each(
        "blank lines",
        all_surveys,
        lambda survey: file_checks.check_blank_lines(survey, is_train=survey.name in train_names),
        if_none="none",
    )
    yield from check_each(
        "duplicates", train, file_checks.check_duplicates, if_none="none in train"
    )
    yield from check_each(
        "overlap",
        evaluation,
        lambda survey: file_checks.check_overlap(survey, train),
        if_none=f"no source sentence of {evaluation_names} is in train",
    )
    yield from check_languages(surveys)
    yield from check_forms(surveys, data.normalization)
    yield from check_each(
        "HTML",
        distinct_files(all_surveys),
        file_checks.check_html_entities,
        if_none="no entities such as &quot;",
    )
    yield from check_each(
        "characters",
        evaluation,
        lambda survey: file_checks.check_characters(survey, train),
        if_none=f"all of {evaluation_names} are in train",
    )
    for survey in train:
        yield file_checks.describe_lengths(survey)


def check_each(
    topic: str, items: Iterable[T], check_item: Callable[[T], list[Finding]], *, if_none: str
) -> list[Finding]:
    """Return what a check finds in each item, or a finding with the text `if_none`."""
    findings = [finding for item in items for finding in check_item(item)]
    return findings or [Finding("ok", topic, "", if_none)]


def distinct_files(surveys: Sequence[ParallelSurvey]) -> list[FileSurvey]:
    """Return the survey of each file once, even if it is part of several surveys."""
    files: dict[tuple[Path, Side], FileSurvey] = {}
    for survey in surveys:
        files[survey.src.path, "src"] = survey.src
        files[survey.tgt.path, "tgt"] = survey.tgt
    return list(files.values())


def survey_files(data: DataConfig) -> tuple[Surveys, list[Finding]]:
    """Read each file once; return the surveys, and an error for each set that cannot be read.

    The validation sets are read first: from them the languages are learned, by which the lines of
    the other sets are scored.
    """
    surveys = Surveys([], [], [])
    errors: list[Finding] = []
    log_odds: LogOddsByLanguages = {}
    for section in data.valid:
        set_surveys, set_errors = survey_set(section.name, section, data, log_odds={})
        surveys.valid.extend(set_surveys)
        errors.extend(set_errors)
        for survey in set_surveys:
            learned = learn_log_odds(survey.src.trigram_counts, survey.tgt.trigram_counts)
            log_odds.setdefault(data.languages(section), learned)

    for section in data.test:
        set_surveys, set_errors = survey_set(section.name, section, data, log_odds=log_odds)
        surveys.test.extend(set_surveys)
        errors.extend(set_errors)
    for index, corpus in enumerate(data.train):
        name = f"train.{index}" if len(data.train) > 1 else "train"
        set_surveys, set_errors = survey_set(name, corpus, data, log_odds=log_odds)
        surveys.train.extend(set_surveys)
        errors.extend(set_errors)
    return surveys, errors


def survey_set(
    name: str,
    section: EvalSetConfig | CorpusConfig,
    data: DataConfig,
    *,
    log_odds: LogOddsByLanguages,
) -> tuple[list[ParallelSurvey], list[Finding]]:
    """Return a survey for each reference of one set, up to a file that cannot be read."""
    set_surveys: list[ParallelSurvey] = []
    languages = data.languages(section)
    own_log_odds = log_odds.get(languages)  # None: no validation set has these languages
    try:
        texts = parallel_texts(section, data)
        logger.info(f"reading {name}")
        # A single file is read twice, once for each side.
        paths = [texts[0].paths[0], *(text.paths[-1] for text in texts)]
        with bytes_bar(f"reading {name}", paths) as on_bytes:
            src = survey_side(
                texts[0],
                "src",
                own_log_odds,
                normalization=data.normalization,
                on_bytes=on_bytes,
            )
            for number, text in enumerate(texts, start=1):
                survey_name = f"{name} ref {number}" if len(texts) > 1 else name
                tgt = survey_side(
                    text, "tgt", own_log_odds, normalization=data.normalization, on_bytes=on_bytes
                )
                set_surveys.append(ParallelSurvey(survey_name, src, tgt, languages))
    except DataError as error:
        return set_surveys, [Finding("error", "files", "", str(error))]
    return set_surveys, []


def check_forms(surveys: Surveys, normalization: Normalization) -> list[Finding]:
    """Check whether sets differ in spaces, accents and characters of width zero."""
    findings = []
    for survey in surveys.train:
        findings += file_checks.check_forms(survey, [], normalization=normalization)
    for survey in [*surveys.valid, *surveys.test]:
        findings += file_checks.check_forms(survey, surveys.train, normalization=normalization)
    others = [*surveys.valid, *surveys.test]
    findings += file_checks.check_mixed_forms(
        [survey.src for survey in surveys.train],
        [survey.src for survey in others],
        normalization=normalization,
    )
    findings += file_checks.check_mixed_forms(
        [survey.tgt for survey in surveys.train],
        [survey.tgt for survey in others],
        normalization=normalization,
    )
    text = "the same spaces and forms of letters in all sets"
    return findings or [Finding("ok", "forms", "", text)]


def check_languages(surveys: Surveys) -> list[Finding]:
    """Check all sets for sides that are swapped or in the wrong language.

    The languages are learned from the validation sets, and each set is compared with the first one
    that has its languages.
    """
    findings = []
    are_similar = False
    valid_by_languages: dict[LanguagePair | None, ParallelSurvey] = {}
    for survey in surveys.valid:
        valid_by_languages.setdefault(survey.languages, survey)
    for languages, valid in valid_by_languages.items():
        others = [
            survey for survey in (*surveys.train, *surveys.test) if survey.languages == languages
        ]
        findings += _check_languages_of(others, valid)
        if learn_log_odds(valid.src.trigram_counts, valid.tgt.trigram_counts) is None:
            are_similar = True
    for survey in (*surveys.train, *surveys.test):
        has_valid_set = survey.languages in valid_by_languages
        if surveys.valid and not has_valid_set and not survey.is_copy_wanted:
            findings += file_checks.check_languages(survey, surveys.valid[0])
    if findings or not surveys.valid:
        return findings
    if are_similar:
        text = "not checked: the two sides are too similar to be told apart"
    else:
        text = "each side is in one language"
    return [Finding("ok", "languages", "", text)]


def _check_languages_of(others: Sequence[ParallelSurvey], valid: ParallelSurvey) -> list[Finding]:
    """Check a validation set and other sets of its languages.

    If there are several others, and all of them seem to be swapped, then it is the validation set
    that is swapped.
    """
    findings_by_set = {survey.name: file_checks.check_languages(survey, valid) for survey in others}
    swapped_names = []
    for name, set_findings in findings_by_set.items():
        if any(file_checks.is_swapped(finding) for finding in set_findings):
            swapped_names.append(name)

    findings = []
    if len(others) > 1 and len(swapped_names) == len(others):
        text = f"{valid.name}: its sides are swapped: all other sets have them the other way round"
        findings.append(Finding("error", "languages", str(valid.src.path), text))
    else:
        agreeing_names = [name for name in findings_by_set if name not in swapped_names]
        for set_findings in findings_by_set.values():
            for finding in set_findings:
                if file_checks.is_swapped(finding):
                    finding = _add_sets_that_agree(finding, valid, agreeing_names)
                findings.append(finding)
    return findings + file_checks.check_languages(valid, valid)


def _add_sets_that_agree(
    finding: Finding, valid: ParallelSurvey, agreeing_names: Sequence[str]
) -> Finding:
    """Add to a finding about swapped sides which other sets agree with the validation set."""
    if agreeing_names:
        text = f"{finding.text}; {', '.join(agreeing_names)}: as in {valid.name}"
    else:
        text = f"{finding.text}; one of the two is wrong"
    return replace(finding, text=text)


def check_scoring(config: Config) -> Finding:
    """Check that the references are plain text, and that BLEU's tokenizer fits them.

    These are the references of the validation sets. Raises MtError.
    """
    problems = []
    tokenizers = []
    for section in config.data.valid:
        valid = load_eval_set(section, config.data)
        scoring = scoring_of_run(config, tgt_lang=valid.tgt_lang)
        problems += find_text_problems(valid.name, {"references": valid.refs[0]}, scoring)
        tokenizers.append(scoring.tokenize)
    if problems:
        return Finding("warning", "scores", "", "; ".join(problems))
    names = ", ".join(dict.fromkeys(tokenizers))
    return Finding("ok", "scores", "", f"BLEU with sacreBLEU's tokenizer {names}")


# Training


def _without_init_from(config: Config) -> Config:
    """Return the config of a run that has begun, and does not need `train.init_from` any more."""
    defaults = {
        name: field.default
        for name, field in TrainConfig.model_fields.items()
        if name.startswith("init_")
    }
    train = config.train.model_copy(update=defaults)
    return config.model_copy(update={"train": train})


class Trial(NamedTuple):
    """The training that is tried: the run that `mt train` would resume, or a new one."""

    config: Config
    runtime: Runtime
    is_resumed: bool


def check_training(config: Config, runtime: Runtime, *, resume: bool) -> Iterator[Finding]:
    """Yield the findings about training itself, which is tried in a temporary directory."""
    assert config.train.run_dir is not None, "read_config gives every run a directory"
    run_dir = RunDir(Path(config.train.run_dir))
    precision = recorded_precision(run_dir, runtime)
    trial: Trial | None = None
    if has_checkpoint(run_dir.checkpoints_dir):
        run_config = load_run_config(run_dir.config_path)
        resumed_config, resumed_runtime = resolve_auto(
            fill_unset_keys(config, run_config),
            runtime,
            run_config=run_config,
            run_precision=precision,
        )
        changes = forbidden_changes(run_config, resumed_config)
        yield _report_existing_run(run_dir, changes)
        if not changes:
            trial = Trial(_without_init_from(resumed_config), resumed_runtime, is_resumed=True)
        # A run that cannot continue with this config says nothing about a new one.
        precision = None
    if trial is None:
        new_config, new_runtime = resolve_auto(
            inherit_from_parent(config), runtime, run_config=None, run_precision=precision
        )
        trial = Trial(new_config, new_runtime, is_resumed=False)

    with TemporaryDirectory(prefix="mt-check-") as directory:
        trial_dir = RunDir(Path(directory) / "trial")
        yield from try_training(
            trial.config,
            trial.runtime,
            trial_dir,
            run_dir=run_dir,
            reuse_tokenizers=trial.is_resumed,
        )
        if resume:
            yield from check_resume(
                trial.config, trial.runtime, trial_dir, directory=Path(directory)
            )


def _report_existing_run(run_dir: RunDir, changes: Sequence[str]) -> Finding:
    """Report that the run directory is in use; an error if the config has changed since then."""
    hint = "in mt train, --run-dir chooses another directory, and --fresh moves this run aside"
    if changes:
        text = f"{run_dir.path} holds a run with another config: {'; '.join(changes)}"
        return Finding("error", "config", "", f"{text} ({hint})")
    text = f"{run_dir.path} holds a run already: mt train would resume it"
    return Finding("note", "config", "", f"{text} ({hint})")
