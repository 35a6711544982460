"""Parallel text for tests of the preflight checks, and surveys of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mt.config.choices import Normalization
from mt.data.parallel_text import TwoFiles
from mt.preflight.languages import TrigramLogOdds
from mt.preflight.survey import FileSurvey, ParallelSurvey, survey_side

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "data" / "toy"

# Corpora that are not part of the repository. Tests that need a missing one are skipped.
REAL = ROOT.parent / "shared" / "data"
MULTI30K = REAL / "multi30k" / "raw"


def toy_lines(name: str, num_lines: int | None = None) -> list[str]:
    """Return the first lines of a file of the toy corpus, such as "train.en"."""
    return (TOY / name).read_text(encoding="utf-8").splitlines()[:num_lines]


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """Write lines to a file, whatever line separators they contain."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    return path


def survey_file(
    path: Path, log_odds: TrigramLogOdds | None = None, *, normalization: Normalization = "none"
) -> FileSurvey:
    """Survey a text file."""
    return survey_side(TwoFiles(path, path), "src", log_odds, normalization=normalization)


def survey_lines(directory: Path, lines: Sequence[str], name: str = "text") -> FileSurvey:
    """Write lines to a file and survey it."""
    return survey_file(write_lines(directory / name, lines))


def survey_pair(
    directory: Path, src: Sequence[str], tgt: Sequence[str], name: str = "train"
) -> ParallelSurvey:
    """Write both sides to NAME.src and NAME.tgt and survey them."""
    return ParallelSurvey(
        name,
        survey_lines(directory, src, f"{name}.src"),
        survey_lines(directory, tgt, f"{name}.tgt"),
    )
