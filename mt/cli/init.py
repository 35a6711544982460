"""The command `mt init`."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mt.cli.logs import escape_control_chars
from mt.cli.options import DeviceOption, QuietOption, VerboseOption
from mt.cli.split import describe_first_pair, describe_split
from mt.cli.text_options import (
    ColumnsOption,
    FilesArgument,
    NumTestOption,
    SeedOption,
    SrcLangOption,
    TgtLangOption,
    open_text,
)
from mt.wording import count_of

if TYPE_CHECKING:
    from mt.project.project import Project, ProjectRequest
    from mt.project.text_facts import SideFacts


def init(
    files: FilesArgument,
    src_lang: SrcLangOption,
    tgt_lang: TgtLangOption,
    minutes: Annotated[
        float, typer.Option(min=0.1, max=10**6, help="time for the training, in minutes")
    ] = 60,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.yaml",
            help="config to write; its name is that of the run  [default: SRC-TGT.yaml]",
        ),
    ] = None,
    num_valid: Annotated[
        int | None,
        typer.Option(
            "--valid",
            min=1,
            help="pairs for validation  [default: 5 %, at least 200 but at most a tenth of the "
            "pairs, and at most 1,000]",
        ),
    ] = None,
    num_test: NumTestOption = None,
    valid_text: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help="validation text that you have: a prefix of two files, a TSV or a TMX file",
        ),
    ] = None,
    test_text: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="test text that you have")
    ] = None,
    columns: ColumnsOption = None,
    seed: SeedOption = 1,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a config for your text, your machine and your time, and set aside held-out text."""
    from mt.cli.streams import write_lines
    from mt.project.project import ProjectRequest, create_project

    _refuse_both("valid", num_valid, valid_text)
    _refuse_both("test", num_test, test_text)
    config_path = output or Path(f"{src_lang}-{tgt_lang}.yaml")
    request = ProjectRequest(
        text=open_text(files, src_lang=src_lang, tgt_lang=tgt_lang, columns=columns),
        src_lang=src_lang,
        tgt_lang=tgt_lang,
        minutes=minutes,
        device=device,
        num_valid=num_valid,
        num_test=num_test,
        valid_text=valid_text,
        test_text=test_text,
        seed=seed,
        config_path=config_path,
        data_dir=config_path.with_name(f"{config_path.stem}-data"),
        command=escape_control_chars(shlex.join(["mt", *sys.argv[1:]])),
    )
    project = create_project(request)
    write_lines(describe_project(request, project))


def _refuse_both(name: str, number: int | None, text: str | None) -> None:
    """Raise BadParameter if both the size of a set and an existing set are given."""
    if number is not None and text is not None:
        raise typer.BadParameter(
            f"the set exists already, so --{name} cannot be used", param_hint=f"--{name}-text"
        )


def describe_project(request: "ProjectRequest", project: "Project") -> Iterator[str]:
    """Yield lines about the text, the choices, and the next commands."""
    from mt.project.settings import count_epochs, describe_epochs, describe_minutes

    yield from describe_first_pair(
        request.text, src_lang=request.src_lang, tgt_lang=request.tgt_lang
    )
    yield from describe_split(project.split, name=request.text.name, directory=request.data_dir)
    if request.valid_text is not None:
        yield f"Validation text: {request.valid_text}"
    if request.test_text is not None:
        yield f"Test text: {request.test_text}"
    yield ""
    yield describe_side(request.src_lang, project.text.src)
    yield describe_side(request.tgt_lang, project.text.tgt)
    yield f"text      {project.text.num_different_characters:,} different characters"
    size = project.settings.size
    num_parameters = size.num_parameters(project.settings.vocab_size)
    yield (
        f"machine   {project.machine.device}, {project.machine.tokens_per_second:,.0f} tokens/s "
        "with the reference model"
    )
    yield (
        f"model     {size.name}: {num_parameters / 1e6:.1f} million parameters, "
        f"{project.settings.vocab_size:,} subwords"
    )
    num_epochs = count_epochs(project.settings, project.length, project.text)
    yield (
        f"training  about {count_of(project.length.num_updates, 'update')} in "
        f"{describe_minutes(request.minutes)}: {describe_epochs(num_epochs)}"
    )
    yield ""
    config = shlex.quote(str(request.config_path))
    run_dir = shlex.quote(f"runs/{request.config_path.stem}")
    yield f"{request.config_path} is written. Next:"
    yield f"  mt check {config}"
    yield f"  mt train {config}"
    yield f"  mt translate {run_dir}"


def describe_side(language: str, side: "SideFacts") -> str:
    """Return a line about the training text in a language."""
    scripts = ", ".join(f"{script.name} {script.share:.0%}" for script in side.scripts)
    return (
        f"{language:9} {count_of(side.num_words, 'word')}, "
        f"{count_of(side.num_characters, 'character')}, "
        f"letters: {scripts or 'none'}"
    )
