"""Models are chosen by languages and name, and names are different."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import make_models

from mt.data.tokenizer import Tokenizer
from mt.errors import DataError
from mt.serve.models import load_models

OLD_RUNS = Path(__file__).resolve().parent.parent / "data" / "old_runs"


def test_the_first_model_that_fits_is_found(tokenizer: Tokenizer) -> None:
    models = make_models(
        tokenizer, ("a", "en", "sv"), ("b", "en", "sv"), ("c", "de", "sv"), ("d", "sv", "en")
    )
    assert models.find("en", "sv").name == "a"
    assert models.find("en", "sv", "b").name == "b"
    assert models.find("auto", "en").name == "d"
    assert models.find("auto", "sv", "c").source == "de"
    for wanted in (("sv", "de", None), ("en", "sv", "c"), ("en", "en", None)):
        with pytest.raises(DataError):
            models.find(*wanted)
    with pytest.raises(DataError, match="de, en"):
        models.find("auto", "sv")
    assert models.targets_by_source() == {"en": ["sv"], "de": ["sv"], "sv": ["en"]}


def test_equal_names_get_numbers() -> None:
    run_dir = OLD_RUNS / "dot_pre_joint"
    models = load_models(
        [run_dir, run_dir, run_dir],
        checkpoint="last",
        device="cpu",
        precision="fp32",
        beam_size=1,
    )
    names = [model.name for model in models.models]
    assert names == ["dot_pre_joint", "dot_pre_joint-2", "dot_pre_joint-3"]
    assert models.models[0].translator.search.beam_size == 1


@pytest.mark.parametrize("shows_reports", [False, True])
def test_the_run_directory_is_kept_to_show_its_report(shows_reports: bool) -> None:
    run_dir = OLD_RUNS / "dot_pre_joint"
    models = load_models(
        [run_dir],
        checkpoint="last",
        device="cpu",
        precision="fp32",
        beam_size=1,
        shows_reports=shows_reports,
    )
    assert models.models[0].run_dir == (run_dir if shows_reports else None)
