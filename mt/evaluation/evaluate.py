"""mt evaluate: how well a run translates, or how good a ready translation is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mt.config.load import load_run_config
from mt.data.eval_set import EvalSet, load_eval_set, read_eval_set
from mt.decoding.translator import Translator
from mt.evaluation.metrics import Score, bleu_tokenizer, score_corpus
from mt.storage.run_dir import open_run_dir


class SetScores(NamedTuple):
    """The scores of one named set."""

    name: str
    num_lines: int
    scores: list[Score]


def evaluate(
    run_dir: str | Path,
    *,
    src: str | Path | None = None,
    refs: Sequence[str | Path] = (),
    checkpoint: str = "best",
    device: str = "auto",
    beam_size: int | None = None,
) -> list[SetScores]:
    """Translate and score the given files, or the config's test sets, or its validation set. Raises MtError."""
    config = load_run_config(open_run_dir(Path(run_dir)).config)
    if src is not None:
        sets = [read_eval_set(Path(src).name, Path(src), list(map(Path, refs)))]
    else:
        sets = [
            load_eval_set(section, config.data)
            for section in config.data.test or (config.data.valid,)
        ]
    translator = Translator.load(run_dir, checkpoint=checkpoint, device=device, beam_size=beam_size)
    return [
        score_set(each, translator.translate(each.src), tgt_lang=config.data.tgt_lang)
        for each in sets
    ]


def score_set(
    each: EvalSet,
    hypotheses: Sequence[str],
    *,
    tgt_lang: str,
    metrics: Sequence[str] = ("bleu", "chrf", "ter"),
) -> SetScores:
    """Score one translation of a set."""
    scores = score_corpus(hypotheses, each.refs, metrics=metrics, tokenize=bleu_tokenizer(tgt_lang))
    return SetScores(each.name, len(each.src), scores)


def evaluate_file(hyp: Path, refs: Sequence[Path], *, tgt_lang: str = "") -> list[SetScores]:
    """Score a file of translations that are there already."""
    each = read_eval_set(hyp.name, hyp, refs)
    return [score_set(each, each.src, tgt_lang=tgt_lang)]


def as_text(found: list[SetScores]) -> str:
    """A line for each score: set, metric, value, signature."""
    width = max(len(each.name) for each in found)
    return "\n".join(
        f"{each.name:<{width}}  {score.name:<4}  {score.value:6.2f}  {score.signature}"
        for each in found
        for score in each.scores
    )


def as_json(found: list[SetScores]) -> str:
    """One object: sets by name, metrics by name, all digits."""
    scores = {
        each.name: {s.name: {"score": s.value, "signature": s.signature} for s in each.scores}
        for each in found
    }
    return json.dumps(
        {each.name: {"num_lines": each.num_lines, **scores[each.name]} for each in found}, indent=2
    )
