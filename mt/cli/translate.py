"""The command `mt translate`."""

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from mt.cli.options import (
    BeamOption,
    CheckpointOption,
    DeviceOption,
    EnsembleOption,
    InputOption,
    OutputOption,
    Precision,
    PrecisionOption,
    QuietOption,
    RunDirArgument,
    ToOption,
    VerboseOption,
)
from mt.cli.resumable_output import ResumableOutput
from mt.cli.sampling_options import (
    EpsilonOption,
    MbrOption,
    SampleOption,
    SeedOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    UtilityOption,
    make_mbr,
    make_sampling,
)
from mt.cli.streams import write_lines
from mt.cli.text_input import (
    TextInput,
    arguments_as_input,
    count_lines,
    open_input,
    refuse_overwriting_input,
)
from mt.config.choices import MbrUtility
from mt.progress_bar import ProgressBar
from mt.storage.run_dir import RunDir
from mt.wording import count_of

if TYPE_CHECKING:
    from mt.cli.line_progress import TranslateProgress
    from mt.cli.translate_output import Format
    from mt.decoding.sampling import SamplingOptions
    from mt.decoding.text_translator import TextTranslator

logger = logging.getLogger(__name__)


def translate(
    run_dir: RunDirArgument,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT", help="what to translate, in quotes  [default: the lines of stdin]"
        ),
    ] = None,
    source: InputOption = None,
    output: OutputOption = None,
    to: ToOption = None,
    ensemble_with: EnsembleOption = None,
    beam_size: BeamOption = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=10.0, help="score = log_prob / length^this  [default: the config's]"
        ),
    ] = None,
    n_best: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="print up to N different translations of each line, in Moses' format",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="save after at most 512 lines; if the command is killed, run it again to continue",
        ),
    ] = False,
    sample: SampleOption = False,
    mbr: MbrOption = None,
    utility: UtilityOption = None,
    seed: SeedOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    epsilon: EpsilonOption = None,
    target_prefix: Annotated[
        Path | None,
        typer.Option(help="file: the translation of line i begins with line i of it"),
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="print a JSON object per line, with scores")
    ] = False,
    alignments: Annotated[
        bool,
        typer.Option("--alignments", help="add ' ||| 0-0 1-2': source word-target word"),
    ] = False,
    errors: Annotated[
        Literal["strict", "replace"],
        typer.Option(help="bytes that are not UTF-8: an error with the line, or U+FFFD"),
    ] = "strict",
    exact: Annotated[
        bool,
        typer.Option("--exact", help="batches of one line: slower, but independent of each other"),
    ] = False,
    no_split: Annotated[
        bool,
        typer.Option(
            "--no-split",
            help="translate a line of several sentences as a whole, up to data.max_length tokens",
        ),
    ] = False,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Translate lines: line i of the output is the translation of line i of the input.

    The lines come from arguments, a file or stdin. A blank line stays blank. A line that the model
    was not trained for, because of its length or because it has several sentences, is translated
    sentence by sentence. An output file is written only after the last line is translated. On
    stdout, the lines translated before an error remain. RUN_DIR may be an export for CTranslate2.
    """
    if length_penalty is not None and math.isnan(length_penalty):
        raise typer.BadParameter("wanted a number, found nan", param_hint="--length-penalty")
    _check_files(texts=texts, source=source, output=output, resume=resume)
    _check_numbers(n_best=n_best, beam_size=beam_size, sample=sample, mbr=mbr)
    sampling = make_sampling(
        sample=sample,
        mbr=mbr,
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        epsilon=epsilon,
    )
    refuse_overwriting_input(source, output, written="its translation")
    if target_prefix is not None:
        refuse_overwriting_input(target_prefix, output, written="the translation")
    options = LineOptions(
        to=to, n_best=n_best, jsonl=jsonl, alignments=alignments, target_prefix=target_prefix
    )
    search_options = SearchOptions(
        beam_size=beam_size, length_penalty=length_penalty, exact=exact, split_lines=not no_split
    )
    run_options = RunOptions(
        ensemble_with=ensemble_with or (),
        checkpoint=checkpoint,
        precision=precision,
        sampling=sampling,
        mbr=mbr,
        utility=utility,
    )
    if RunDir(run_dir).is_for_ctranslate2:
        _refuse_options_of_runs(run_options, options)
        translator = _load_export(run_dir, search_options, device=device)
    else:
        translator = _load_run(run_dir, search_options, run_options, device=device)
    translator.language_prefix(to)  # raises DataError for an unknown language
    _translate_input(
        _widen_beam(translator, n_best or 1),
        options,
        texts=texts or (),
        source=source,
        errors=errors,
        output=output,
        resume=resume,
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of the command for the search, with a run and with an export."""

    beam_size: int | None  # None: the config's
    length_penalty: float | None  # None: the config's
    exact: bool
    split_lines: bool


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of the command for the models and the sampling of a run; an export has none."""

    ensemble_with: Sequence[Path]
    checkpoint: str
    precision: Precision
    sampling: "SamplingOptions | None"  # None: beam search
    mbr: int | None  # number of samples; None: without minimum Bayes risk
    utility: MbrUtility | None


@dataclass(frozen=True, kw_only=True)
class LineOptions:
    """Options of the command that say what to translate and print for each line."""

    to: str | None  # target language; None: the run's default
    n_best: int | None  # None: the best translation alone, without its number and score
    jsonl: bool
    alignments: bool
    target_prefix: Path | None  # file with the beginnings of the translations

    @property
    def format_line(self) -> "Format":
        """The function that formats the translations of a line."""
        from mt.cli import translate_output as formats

        if self.jsonl:
            return formats.json_line
        if self.n_best is not None:
            return formats.moses_lines
        return formats.best_line

    def target_prefixes(self, *, skip: int) -> Iterator[str] | None:
        """Return the given beginnings after the first `skip`. Reading them raises DataError."""
        if self.target_prefix is None:
            return None
        from mt.data.text import read_lines

        return islice(read_lines(self.target_prefix, may_be_empty=True), skip, None)


def _translate_input(
    translator: "TextTranslator",
    options: LineOptions,
    *,
    texts: Sequence[str],
    source: Path | None,
    errors: Literal["strict", "replace"],
    output: Path | None,
    resume: bool,
) -> None:
    """Translate the texts or, without any, the lines of a file or of stdin (`source` is None)."""
    from mt.cli.line_progress import TranslateProgress

    if texts:
        text = arguments_as_input(texts, errors=errors)
        _warn_of_file_names(texts)
    else:
        text = open_input(source, errors=errors)
    input_is_terminal = not texts and source is None and sys.stdin.isatty()
    if input_is_terminal:
        _log_instructions(translator, options.to)
    with_bar = not texts and not input_is_terminal and _bar_is_wanted(output)
    with ProgressBar(enabled=with_bar) as bar:
        total = count_lines(source) if bar.is_shown else None
        if resume:
            assert output is not None, "checked by _check_files"
            write_resumable(translator, text, options, output=output, bar=bar, total=total)
            return
        chunks = translate_chunks(
            translator,
            text,
            options,
            progress=TranslateProgress(bar, total=total),
            one_by_one=input_is_terminal,
        )
        formatted = (line for chunk in chunks for line in chunk.formatted)
        write_lines(formatted, output, at_once=output is None)


class FormattedChunk(NamedTuple):
    """Successive lines of the input, and what to print for each."""

    lines: list[str]
    formatted: list[str]


def translate_chunks(
    translator: "TextTranslator",
    text: TextInput,
    options: LineOptions,
    *,
    progress: "TranslateProgress",
    num_done: int = 0,
    one_by_one: bool = False,
) -> Iterator[FormattedChunk]:
    """Yield what to print for each line, in order, chunk by chunk.

    `num_done` lines were translated before, and are not in `text`. With `one_by_one`, each line is
    translated before the next one is read.
    """
    from mt.decoding.alignment import align_translations
    from mt.decoding.text_translator import CHUNK_SIZE
    from mt.decoding.translator import Translator

    chunks = replace(translator, on_progress=progress.on_progress).translate_chunks(
        progress.count_reading(text.lines),
        n_best=options.n_best or 1,
        to=options.to,
        chunk_size=1 if one_by_one else CHUNK_SIZE,
        is_line_waiting=text.is_line_waiting,
        target_prefixes=options.target_prefixes(skip=num_done),
    )
    index = num_done
    for chunk in chunks:
        n_best_lists = chunk.translations
        if options.alignments:
            assert isinstance(translator, Translator), "an export has no alignments"
            n_best_lists = align_translations(translator, chunk.lines, n_best_lists)
        formatted = []
        for line, translations in zip(chunk.lines, n_best_lists, strict=True):
            formatted.append(options.format_line(index, line, translations))
            index += 1
        yield FormattedChunk(chunk.lines, formatted)
        progress.finish_chunk()


def write_resumable(
    translator: "TextTranslator",
    text: TextInput,
    options: LineOptions,
    *,
    output: Path,
    bar: ProgressBar,
    total: int | None,
) -> None:
    """Translate the lines of a file that no earlier command has translated.

    The output gets its name when all lines are written. `total` is the number of lines of the file,
    if it is known.
    """
    from mt.cli.line_progress import TranslateProgress

    settings = settings_of_output(translator, options)
    with ResumableOutput(output, settings) as resumable:
        num_done = resumable.num_lines
        if num_done > 0:
            logger.info(f"{output}: continuing after {count_of(num_done, 'line')}")
        chunks = translate_chunks(
            translator,
            text._replace(lines=resumable.skip_translated(text.lines)),
            options,
            progress=TranslateProgress(bar, total=None if total is None else total - num_done),
            num_done=num_done,
        )
        for chunk in chunks:
            resumable.write_chunk(chunk.lines, chunk.formatted)
        resumable.finish()


def settings_of_output(translator: "TextTranslator", options: LineOptions) -> dict[str, Any]:
    """Return all that an output depends on, besides the input.

    A resumed command must have the same settings as the one that began the output.
    """
    from mt.storage.atomic import sha256

    prefix_file = options.target_prefix
    return {
        **translator.describe_model(),
        "source tokenizer": translator.src_tokenizer.digest,
        "target tokenizer": translator.tgt_tokenizer.digest,
        "normalization": translator.normalization,
        "longest source": translator.max_length,
        "statistics of the training text": repr(translator.source_stats),
        "search": translator.search.model_dump(),
        "target language": options.to or translator.tgt_lang,
        "tag of the target language": list(translator.language_prefix(options.to)),
        "splitting of lines": translator.split_lines,
        "number of translations": options.n_best,
        "output format": [options.jsonl, options.alignments],
        "target prefix": None if prefix_file is None else sha256(prefix_file),
    }


def _load_run(
    run_dir: Path, search_options: SearchOptions, run_options: RunOptions, *, device: str
) -> "TextTranslator":
    """Load the translator of a run. Raises BadParameter and MtError."""
    from mt.decoding.translator import Translator

    return Translator.load(
        run_dir,
        ensemble_with=run_options.ensemble_with,
        checkpoint=run_options.checkpoint,
        device=device,
        precision=run_options.precision,
        beam_size=search_options.beam_size,
        length_penalty=search_options.length_penalty,
        exact=search_options.exact,
        sampling=run_options.sampling,
        mbr=make_mbr(run_dir, num_samples=run_options.mbr, utility=run_options.utility),
        split_lines=search_options.split_lines,
    )


def _load_export(directory: Path, options: SearchOptions, *, device: str) -> "TextTranslator":
    """Load the translator of an export for CTranslate2. Raises MtError."""
    from mt.export.ctranslate2_translator import CTranslate2Translator

    return CTranslate2Translator.load(
        directory,
        device=device,
        beam_size=options.beam_size,
        length_penalty=options.length_penalty,
        exact=options.exact,
        split_lines=options.split_lines,
    )


def _refuse_options_of_runs(run_options: RunOptions, options: LineOptions) -> None:
    """Raise BadParameter for an option that is given but needs a run, not an export."""
    is_given = {
        "--with": bool(run_options.ensemble_with),
        "--sample": run_options.sampling is not None and run_options.mbr is None,
        "--mbr": run_options.mbr is not None,
        "--utility": run_options.utility is not None,
        "--target-prefix": options.target_prefix is not None,
        "--alignments": options.alignments,
        "--checkpoint": run_options.checkpoint != "best",
        "--precision": run_options.precision != "fp32",
    }
    for name, given in is_given.items():
        if given:
            raise typer.BadParameter(
                "needs a run, found an export for CTranslate2", param_hint=name
            )


def _check_files(
    *, texts: Sequence[str] | None, source: Path | None, output: Path | None, resume: bool
) -> None:
    """Raise BadParameter for an input and an output that do not fit together."""
    if texts and source is not None:
        raise typer.BadParameter("give either texts or --input", param_hint="--input")
    if resume and (source is None or output is None or output.suffix == ".gz"):
        raise typer.BadParameter(
            "needs --input and --output; the output cannot be .gz", param_hint="--resume"
        )


def _check_numbers(
    *, n_best: int | None, beam_size: int | None, sample: bool, mbr: int | None
) -> None:
    """Raise BadParameter for numbers of translations that do not fit together."""
    if sample and mbr is not None:
        raise typer.BadParameter("give either --sample or --mbr", param_hint="--mbr")
    if beam_size is not None and (sample or mbr is not None):
        raise typer.BadParameter(
            "--sample and --mbr draw translations, without a beam", param_hint="--beam-size"
        )
    if n_best is None:
        return
    if beam_size is not None and n_best > beam_size:
        raise typer.BadParameter(
            f"{n_best} translations need --beam-size {n_best} at least", param_hint="--n-best"
        )
    if mbr is not None and n_best > mbr:
        raise typer.BadParameter(
            f"{n_best} translations need --mbr {n_best} at least", param_hint="--n-best"
        )


def _widen_beam(translator: "TextTranslator", num_translations: int) -> "TextTranslator":
    """Return a translator whose beam has room for `num_translations` translations."""
    if num_translations <= translator.search.beam_size:
        return translator
    search = translator.search.model_copy(update={"beam_size": num_translations})
    return replace(translator, search=search)


def _log_instructions(translator: "TextTranslator", to: str | None) -> None:
    """Log the languages and how to end, for a person who types lines."""
    src_lang = translator.src_lang
    if translator.ids_by_language:
        src_lang = "any source language"
    text = f"{src_lang} -> {to or translator.tgt_lang}, type a sentence, Ctrl-D ends"
    if any(language != to for language in translator.ids_by_language):
        text += f" (--to translates into {', '.join(translator.ids_by_language)})"
    logger.info(text)


def _warn_of_file_names(texts: Sequence[str]) -> None:
    """Warn of arguments that name a file, because they are translated as text all the same."""
    for text in texts:
        with suppress(OSError, ValueError):  # a long text is no file name, nor is one with a NUL
            if Path(text).is_file():
                logger.warning(f"{text}: translated as text; --input reads a file")


def _bar_is_wanted(output: Path | None) -> bool:
    """Return whether to draw a bar. It must not mix with translations on a terminal."""
    output_is_terminal = output is None and sys.stdout is not None and sys.stdout.isatty()
    return logger.isEnabledFor(logging.INFO) and not output_is_terminal
