"""The models that a server offers, and which of them a request means."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mt.config.load import load_run_config
from mt.data.tags import translatable_pairs
from mt.decoding.translator import Translator
from mt.storage.run_dir import open_run_dir

# As the source of a request: the only source language of the models into its target language.
AUTO = "auto"


class UnknownModelError(Exception):
    """No model, or more than one, fits what a request asks for."""


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model for one language pair, with the name that requests choose it by.

    A run of several language pairs has one of these for each, with one name and the same weights.
    """

    name: str
    translator: Translator  # its tgt_lang is the language that it translates into
    run_dir: Path | None = None  # None: its report and attention page are not shown

    @property
    def source(self) -> str:
        """Return the code of the source language."""
        return self.translator.src_lang

    @property
    def target(self) -> str:
        """Return the code of the target language."""
        return self.translator.tgt_lang

    @property
    def facts(self) -> dict[str, str]:
        """Return the name and the languages, under the keys that the API gives them."""
        return {"model": self.name, "source": self.source, "target": self.target}


@dataclass(frozen=True)
class ServedModels:
    """All models of a server, in the order of the command line."""

    models: tuple[ServedModel, ...]

    def find(self, source: str, target: str, name: str | None = None) -> ServedModel:
        """Return the first model from `source` to `target`, or the one called `name`.

        A source of "auto" is the source language of the models into `target`, if they have only
        one: languages are not detected. Raises UnknownModelError, which begins as the errors of
        LibreTranslate do.
        """
        named = [target] if source == AUTO else [source, target]
        for language in named:
            if language not in self.languages:
                raise UnknownModelError(
                    f"{language} is not supported: there are {', '.join(self.languages)}"
                )
        fitting = [model for model in self.models if model.target == target]
        if source != AUTO:
            fitting = [model for model in fitting if model.source == source]
        if name is not None:
            fitting = [model for model in fitting if model.name == name]
        if not fitting:
            model_name = "" if name is None else f" with the model {name}"
            raise UnknownModelError(
                f"{target} is not available as a target language from {source}{model_name}: "
                f"there are {self.describe()}"
            )
        sources = {model.source for model in fitting}
        if len(sources) > 1:
            raise UnknownModelError(
                f"source: languages are not detected; wanted one of {', '.join(sorted(sources))}"
            )
        return fitting[0]

    @property
    def languages(self) -> tuple[str, ...]:
        """Return all languages, those of sources first."""
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
    """Load the models of run directories, one for each language pair of a run. Raises MtError.

    A model has the name of its run directory. If that name is taken, a number follows it: the
    second model is `NAME-2`. With `shows_reports`, the pages in the run directories are shown, too.
    """
    models: list[ServedModel] = []
    names: set[str] = set()
    for run_dir in run_dirs:
        translator = Translator.load(
            run_dir,
            checkpoint=checkpoint,
            device=device,
            precision=precision,
            beam_size=beam_size,
        )
        name = _new_name(run_dir.resolve().name, names)
        names.add(name)
        shown_dir = run_dir if shows_reports else None
        data = load_run_config(open_run_dir(run_dir).config_path).data
        for pair in translatable_pairs(data):
            own_translator = replace(translator, src_lang=pair.src, tgt_lang=pair.tgt)
            models.append(ServedModel(name, own_translator, shown_dir))
    return ServedModels(tuple(models))


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
