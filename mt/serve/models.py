"""The models that a server offers, and which of them a request means."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mt.config.load import load_run_config
from mt.data.tags import translatable_pairs
from mt.decoding.text_translator import TextTranslator
from mt.decoding.translator import Translator
from mt.errors import DataError, RunDirError
from mt.export.ctranslate2_translator import CTranslate2Translator
from mt.storage.checkpoint import BEST
from mt.storage.run_dir import RunDir

# As the source of a request: the only source language of the models into its target language.
AUTO = "auto"


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model for one language pair, with the name that requests choose it by.

    A run of several language pairs has one of these for each, with one name and the same weights.
    """

    name: str
    translator: TextTranslator  # its tgt_lang is the language that it translates into
    run_dir: Path | None = None  # None: its report and attention page are not shown

    @property
    def source(self) -> str:
        """The code of the source language."""
        return self.translator.src_lang

    @property
    def target(self) -> str:
        """The code of the target language."""
        return self.translator.tgt_lang

    @property
    def has_details(self) -> bool:
        """Whether the model can describe words and show attention: an export cannot."""
        return isinstance(self.translator, Translator)

    def detailed_translator(self) -> Translator:
        """Return the translator, to describe words with it. Raises DataError."""
        if not isinstance(self.translator, Translator):
            raise DataError(
                f"{self.name}: an export for CTranslate2 cannot describe words or show attention"
            )
        return self.translator

    @property
    def facts(self) -> dict[str, str]:
        """The name and the languages, under the keys that the API gives them."""
        return {"model": self.name, "source": self.source, "target": self.target}


@dataclass(frozen=True)
class ServedModels:
    """All models of a server, in the order of the command line."""

    models: tuple[ServedModel, ...]

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.models)

    def find(self, source: str, target: str, name: str | None = None) -> ServedModel:
        """Return the first model from `source` to `target`, or the one called `name`.

        A source of "auto" is the source language of the models into `target`, if they have only
        one: languages are not detected. Raises DataError if no model fits, or more than one. The
        error begins as that of LibreTranslate does.
        """
        named = [target] if source == AUTO else [source, target]
        for language in named:
            if language not in self.languages:
                raise DataError(
                    f"{language} is not supported: there are {', '.join(self.languages)}"
                )
        fitting = [model for model in self.models if model.target == target]
        if source != AUTO:
            fitting = [model for model in fitting if model.source == source]
        if name is not None:
            fitting = [model for model in fitting if model.name == name]
        if not fitting:
            model_name = "" if name is None else f" with the model {name}"
            raise DataError(
                f"{target} is not available as a target language from {source}{model_name}: "
                f"there are {self.describe()}"
            )
        sources = {model.source for model in fitting}
        if len(sources) > 1:
            raise DataError(
                f"source: languages are not detected; wanted one of {', '.join(sorted(sources))}"
            )
        return fitting[0]

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages, those of sources first."""
        sources = [model.source for model in self.models]
        targets = [model.target for model in self.models]
        return tuple(dict.fromkeys([*sources, *targets]))

    def describe(self) -> str:
        """Return the directions and names of all models as text."""
        return ", ".join(
            f"{model.source} to {model.target} ({model.name})" for model in self.models
        )

    def targets_by_source(self) -> dict[str, list[str]]:
        """Return the target languages of each source language, in the order of the models."""
        targets: dict[str, list[str]] = {}
        for model in self.models:
            own_targets = targets.setdefault(model.source, [])
            if model.target not in own_targets:
                own_targets.append(model.target)
        return targets


def load_models(
    run_dirs: Sequence[Path],
    *,
    checkpoint: str,
    device: str,
    precision: str,
    beam_size: int | None,
    shows_reports: bool = False,
) -> ServedModels:
    """Load the models of runs, or of exports for CTranslate2, one for each language pair.

    A model has the name of its directory. If that name is taken, a number follows it: the second
    model is `NAME-2`. With `shows_reports`, the pages in the run directories are shown, too. Raises
    MtError, also for an export if `checkpoint` or `precision` is not the default.
    """
    models: list[ServedModel] = []
    names: set[str] = set()
    for run_dir in run_dirs:
        translator = _load_translator(
            run_dir,
            checkpoint=checkpoint,
            device=device,
            precision=precision,
            beam_size=beam_size,
        )
        name = _new_name(run_dir.resolve().name, names)
        names.add(name)
        shown_dir = run_dir if shows_reports else None
        data = load_run_config(RunDir(run_dir).config_path).data
        for pair in translatable_pairs(data):
            own_translator = replace(translator, src_lang=pair.src, tgt_lang=pair.tgt)
            models.append(ServedModel(name, own_translator, shown_dir))
    return ServedModels(tuple(models))


def _load_translator(
    run_dir: Path, *, checkpoint: str, device: str, precision: str, beam_size: int | None
) -> TextTranslator:
    """Load the translator of a run, or of an export for CTranslate2. Raises MtError."""
    if not RunDir(run_dir).is_for_ctranslate2:
        return Translator.load(
            run_dir,
            checkpoint=checkpoint,
            device=device,
            precision=precision,
            beam_size=beam_size,
        )
    if checkpoint != BEST or precision != "fp32":  # the defaults
        raise RunDirError(
            f"{run_dir}: an export for CTranslate2 has one checkpoint and one precision; leave out "
            "--checkpoint and --precision"
        )
    return CTranslate2Translator.load(run_dir, device=device, beam_size=beam_size)


def _new_name(name: str, names: set[str]) -> str:
    """Return a name that is not in `names`: the given one, or the given one with a number."""
    # The name of a directory may have bytes that are not UTF-8.
    readable = name.encode(errors="backslashreplace").decode()
    candidate = readable
    number = 2
    while candidate in names:
        candidate = f"{readable}-{number}"
        number += 1
    return candidate
