"""mt export --to argos: a package for Argos Translate and LibreTranslate.

An .argosmodel file is a ZIP archive of one folder: metadata.json, README.md, sentencepiece.model
and, in `model`, a model for CTranslate2.
"""

import json
import logging
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from mt.errors import DiskError
from mt.export import ctranslate2
from mt.export.model_card import CardOptions, write_model_card
from mt.export.run import ExportedRun
from mt.storage.atomic import atomic_file

logger = logging.getLogger(__name__)

SUFFIX = ".argosmodel"
PACKAGE_VERSION = "1.0"
ARGOS_VERSION = "1.9"  # the oldest Argos Translate that reads such a package
# Each file in the archive has this time, so that two exports of a model are equal.
FILE_TIME = (1980, 1, 1, 0, 0, 0)

HOW_TO_LOAD = """\
```python
import argostranslate.package
import argostranslate.translate

argostranslate.package.install_from_path("{file}")
print(argostranslate.translate.translate("A sentence.", "{src_lang}", "{tgt_lang}"))
```

`argospm install {file}` installs it too, for LibreTranslate as well.
"""


def export(
    run_dir: Path,
    path: Path,
    *,
    quantization: str = "float32",
    checkpoint: str = "best",
    license_name: str | None = None,
) -> None:
    """Write a package to the file `path`, which must end in .argosmodel.

    Raises ConfigError for separate tokenizers, for several target languages and for what
    CTranslate2 does not have, DiskError when the file cannot be written or has another ending, and
    PackageError if ctranslate2 is not installed.
    """
    if path.suffix != SUFFIX:
        raise DiskError(f"{path}: wanted a file that ends in {SUFFIX}, such as en-sv{SUFFIX}")
    run = ExportedRun.load(run_dir, checkpoint=checkpoint)
    if not run.config.tokenizer.joint:
        raise run.config_error("tokenizer.joint: Argos needs one tokenizer for both languages")
    if run.translator.ids_by_language:
        raise run.config_error(
            "data.tags: Argos puts no tag of a target language in front of a source, and this model"
            f" has several: {', '.join(run.translator.ids_by_language)}"
        )
    with tempfile.TemporaryDirectory() as temporary:
        data = run.config.data
        package = Path(temporary) / f"translate-{data.src_lang}_{data.tgt_lang}"
        package.mkdir()
        _write_package(package, run, quantization=quantization)
        options = CardOptions(
            how_to_load=HOW_TO_LOAD.format(
                file=path.name, src_lang=data.src_lang, tgt_lang=data.tgt_lang
            ),
            differences=_differences(run),
            license=license_name,
        )
        write_model_card(package, run, options)
        archive = Path(temporary) / "archive.zip"
        _write_archive(archive, package)
        with archive.open("rb") as content, atomic_file(path) as file:
            shutil.copyfileobj(content, file)
    megabytes = path.stat().st_size / 1e6
    logger.info(f"{path}: {megabytes:.1f} MB, {quantization}, for Argos Translate")


def _write_package(package: Path, run: ExportedRun, *, quantization: str) -> None:
    """Write all files of a package into a folder, except for its card."""
    model = package / "model"
    model.mkdir()
    ctranslate2.write_model(run, model, quantization=quantization)
    shutil.copy(run.tokenizer_paths[0], package / "sentencepiece.model")
    metadata = json.dumps(_metadata(run), indent=1, ensure_ascii=False)
    (package / "metadata.json").write_text(metadata, encoding="utf-8")


def _metadata(run: ExportedRun) -> dict[str, Any]:
    data = run.config.data
    return {
        "package_version": PACKAGE_VERSION,
        "argos_version": ARGOS_VERSION,
        "from_code": data.src_lang,
        "from_name": data.src_lang,
        "to_code": data.tgt_lang,
        "to_name": data.tgt_lang,
    }


def _differences(run: ExportedRun) -> list[str]:
    """Return how Argos Translate differs from mt, for a model card."""
    return [
        *ctranslate2.differences(run),
        "Argos Translate splits text into sentences by a model of its own. It downloads this model "
        "when it first translates from a language.",
        "It searches with a beam of 4 and a length penalty of 0.2.",
        "It writes a space for each underscore of a translation.",
    ]


def _write_archive(archive: Path, package: Path) -> None:
    """Write a folder to a ZIP archive, without the owners and times of its files."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(package.rglob("*")):
            if path.is_file():
                name = path.relative_to(package.parent).as_posix()
                entry = zipfile.ZipInfo(name, date_time=FILE_TIME)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                file.writestr(entry, path.read_bytes())
