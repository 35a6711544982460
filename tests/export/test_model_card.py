"""Model cards: what they say, and that each format has one without the author's places."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from random_run import SEVERAL_LANGUAGES, make_run, make_tokenizers
from runs import read_all_files
from shell import mt

from mt.config.schema import Config
from mt.errors import DiskError
from mt.export import argos, bundle, ctranslate2, model_card, transformers

CARDS = Path(__file__).resolve().parents[2] / "docs" / "cards"
FORMATS = ["ctranslate2", "transformers", "argos", "bundle"]
SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
SCORE = {"BLEU": 31.24, "signatures": {"BLEU": SIGNATURE}}
SCOPE = {"num_lines": 1234, "num_lines_in_set": 1234, "beam_size": 5}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tokenizers: list[Path]) -> Path:
    """A run in a folder with a telling name, with scores of its checkpoint."""
    home = tmp_path_factory.mktemp("home_of_the_author")
    overrides = [f"data.train=[{{prefix: {home}/europarl}}, {{tsv: {home}/secret_place/books.tsv, "]
    overrides[0] += "columns: [1, 2]}]"
    overrides += [f"data.valid={{name: news, src: {home}/news.aa, refs: [{home}/news.bb]}}"]
    run_dir = make_run(
        home / "run",
        tokenizers,
        [*overrides, f"train.run_dir={home}/run", f"train.init_from={home}/old"],
    )
    lines = [
        {"kind": "start", "step": 0, "environment": {"host": str(home)}, "timing": {}},
        {"kind": "valid", "step": 1, "BLEU": 11.0, **SCOPE, "signatures": {"BLEU": "x"}},
        {"kind": "final", "step": 9, "checkpoint": "step_00000001", **SCORE, **SCOPE},
        {"kind": "final", "step": 9, "checkpoint": "step_00000007", "BLEU": 99.0, **SCOPE},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (run_dir / "metrics.jsonl").write_text(text, encoding="utf-8")
    return run_dir


def export_to(name: str, run_dir: Path, folder: Path, *options: str) -> Path:
    """Export a run, and return the folder with all files of the export."""
    path = folder / ("exported.argosmodel" if name == "argos" else "exported")
    ended = mt("export", run_dir, "--to", name, path, *options)
    assert ended.code == 0, ended.err
    if name != "argos":
        return path
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "extracted")
    (package,) = (folder / "extracted").iterdir()
    return package


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_has_a_card(name: str, run_dir: Path, tmp_path: Path) -> None:
    directory = export_to(name, run_dir, tmp_path, "--license", "CC-BY-4.0: as the text | books")
    card = (directory / "README.md").read_text(encoding="utf-8")
    _, front_matter, text = card.split("---\n", 2)
    assert yaml.safe_load(front_matter) == {
        "language": ["aa", "bb"],
        "license": "CC-BY-4.0: as the text | books",
        "pipeline_tag": "translation",
    }
    for fact in ("europarl.aa, europarl.bb, books.tsv", "news.aa, news.bb", "# aa → bb"):
        assert fact in text
    (row,) = [line for line in text.splitlines() if line.startswith("| news |")]
    cells = [cell.strip() for cell in row.replace("\\|", "\0").split("|")[1:-1]]
    signature = SIGNATURE.replace("|", "\0")
    assert cells == ["news", "BLEU", "31.2", "1,234 lines, beam 5", f"`{signature}`"]
    settings = settings_of_card(text)
    assert settings["model"]["d_model"] == 32
    assert settings["search"]["beam_size"] == 1


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.md")), ids=lambda path: path.stem)
def test_cards_in_the_documents_have_the_current_keys(path: Path) -> None:
    """They are copies: a key that changes in the schema has to be changed there too."""
    settings = settings_of_card(path.read_text(encoding="utf-8"))
    keys = {section: set(values) for section, values in settings.items()}
    assert keys == {name: section_keys(name) for name in model_card.SETTINGS}


def settings_of_card(card: str) -> dict[str, dict[str, object]]:
    """Return the sections of the config on a card."""
    block = card.split("```yaml\n")[1].split("```")[0]
    settings: dict[str, dict[str, object]] = yaml.safe_load(block)
    return settings


def section_keys(name: str) -> set[str]:
    """Return the keys of a section of a config."""
    return set(Config.model_fields[name].annotation.model_fields)


@pytest.mark.parametrize("name", FORMATS)
def test_no_place_of_the_author_is_exported(name: str, run_dir: Path, tmp_path: Path) -> None:
    directory = export_to(name, run_dir, tmp_path)
    assert "README.md" in {path.name for path in read_all_files(directory)}
    secrets = {"home_of_the_author", "secret_place", str(tmp_path), str(Path.home())}
    for path, content in read_all_files(directory).items():
        for secret in secrets:
            assert secret.encode() not in content, f"{path}: {secret}"


def test_card_without_license_and_scores_says_so(tokenizers: list[Path], tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers)
    card = (export_to("bundle", run_dir, tmp_path) / "README.md").read_text(encoding="utf-8")
    assert "license" not in yaml.safe_load(card.split("---\n")[1])
    assert "Not stated" in card
    assert "no scores" in card


@pytest.mark.parametrize("name", FORMATS)
def test_failed_export_leaves_nothing(
    name: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card is written last, when all other files stand there."""

    def fail(directory: Path, *_: object) -> None:
        assert len(list(directory.iterdir())) >= 3
        raise DiskError("full")

    for module in (argos, bundle, ctranslate2, transformers):
        monkeypatch.setattr(module, "write_model_card", fail)
    path = tmp_path / "exported.argosmodel"
    ended = mt("export", run_dir, "--to", name, path)
    assert ended.code == 1
    assert ended.err == "mt: full\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ctranslate2", "transformers", "bundle"])
def test_only_an_export_is_replaced(name: str, run_dir: Path, tmp_path: Path) -> None:
    directory = export_to(name, run_dir, tmp_path)
    export_to("bundle", run_dir, tmp_path)
    export_to(name, run_dir, tmp_path)
    (directory / "notes").mkdir()
    (directory / "notes" / "mine").write_text("mine", encoding="utf-8")
    contents = read_all_files(directory)
    ended = mt("export", run_dir, "--to", name, directory)
    assert ended.code == 1
    assert "not written by mt export" in ended.err
    assert read_all_files(directory) == contents


@pytest.mark.parametrize("name", ["transformers", "bundle"])
def test_full_disk_is_one_line_and_leaves_nothing(
    name: str, run_dir: Path, full_disk: Path
) -> None:
    filler = full_disk / "filler"
    filler.write_bytes(bytes(950_000))
    ended = mt("export", run_dir, "--to", name, full_disk / "exported")
    assert ended.code == 1
    assert ended.err.startswith(f"mt: {full_disk}/exported: cannot write")
    assert ended.err.count("\n") == 1
    assert list(full_disk.iterdir()) == [filler]


def test_files_of_an_export_can_be_read_by_others(run_dir: Path, tmp_path: Path) -> None:
    directory = export_to("transformers", run_dir, tmp_path)
    modes = {path.stat().st_mode & 0o777 for path in read_all_files(directory)}
    (tmp_path / "new").touch()
    assert modes == {(tmp_path / "new").stat().st_mode & 0o777}


def test_quantization_is_refused_where_it_does_nothing(run_dir: Path, tmp_path: Path) -> None:
    ended = mt("export", run_dir, "--to", "bundle", tmp_path / "x", "--quantization", "int8")
    assert ended.code == 2
    assert "--quantization" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_moved_run_is_exported_to_equal_files(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "moved")
    for name in FORMATS:
        folders = [tmp_path / f"{name}_1", tmp_path / f"{name}_2"]
        for source, folder in zip((run_dir, tmp_path / "moved"), folders, strict=True):
            folder.mkdir()
            export_to(name, source, folder)
        first, second = (
            {path.relative_to(folder): content for path, content in read_all_files(folder).items()}
            for folder in folders
        )
        assert first == second, name


@pytest.mark.parametrize("name", ["ctranslate2", "transformers", "bundle"])
def test_card_names_all_languages(name: str, tokenizers: list[Path], tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers, SEVERAL_LANGUAGES)
    sets = [
        {"name": "to-bb", "BLEU": 20.0, "signatures": {"BLEU": "tok:13a"}, "num_lines": 500},
        {"name": "to-cc", "BLEU": 30.0, "signatures": {"BLEU": "tok:ja"}, "num_lines": 200},
    ]
    scope = {"num_lines": 700, "num_lines_in_set": 900, "beam_size": 5}
    line = {"kind": "valid", "step": 1, "BLEU": 25.0, "signatures": {"BLEU": "tok:13a"}, **scope}
    text = json.dumps({**line, "sets": sets})
    (run_dir / "metrics.jsonl").write_text(f"{text}\n", encoding="utf-8")
    card = (export_to(name, run_dir, tmp_path) / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["language"] == ["aa", "bb", "cc"]
    assert "# aa → bb, aa → cc, bb → cc\n" in card
    assert "train.aa, train.bb, train.cc, other.bb, other.cc" in card
    assert "valid.aa, valid.bb, valid.cc" in card
    assert "| bb | `<tag_0>` |\n| cc | `<tag_1>` |" in card
    scores = [line for line in card.splitlines() if line.startswith("| to-")]
    assert scores == [
        "| to-bb (aa → bb) | BLEU | 20.0 | a sample of 500 lines, beam 5 | `tok:13a` |",
        "| to-cc (aa → cc) | BLEU | 30.0 | a sample of 200 lines, beam 5 | `tok:ja` |",
    ]


def test_table_cells_escape_bars() -> None:
    assert model_card._table_line(("a|b", "c")) == "| a\\|b | c |\n"


def test_scores_of_another_run_are_not_on_the_card(
    run_dir: Path, tokenizers: list[Path], tmp_path: Path
) -> None:
    """The checkpoints of two runs have the same name."""
    other = make_run(tmp_path / "other", tokenizers)
    checkpoint = str(other / "checkpoints/step_00000001")
    directory = export_to("bundle", run_dir, tmp_path, "--checkpoint", checkpoint)
    assert "no scores" in (directory / "README.md").read_text(encoding="utf-8")
