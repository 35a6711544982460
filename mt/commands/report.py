"""mt report: one page that tells all of a run, finished or not."""

import json
import math
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from mt.checkpoint import find_checkpoint, load_meta
from mt.commands.attention import attention_maps
from mt.commands.facts import PairCounts, list_facts, summarise
from mt.commands.files import EvalSet, configured_set, say
from mt.config import Config, dump_config, load_config
from mt.data.corpus import FilterCounts
from mt.decoding.translator import Translator
from mt.disk import whole_file
from mt.errors import CheckpointError, DataError
from mt.evaluation import analysis
from mt.evaluation.metrics import bleu_tokenizer
from mt.pages import report as page
from mt.pages.attention import Side, over_words, readable
from mt.pages.report import MetricsLine
from mt.rundir import RunDir, open_run_dir
from mt.training.progress import Sample

NUM_EXAMPLES = 5  # of each kind, in each test set
NUM_HEAT_MAPS, HEAT_MAP_WORDS = 4, range(7, 15)
PACKAGES = {"mt": "mt-from-two-files", "torch": "torch", "sacreBLEU": "sacrebleu", "matplotlib": "matplotlib"}


def write_report(run_dir: Path, output: Path, *, checkpoint: str = "best", device: str = "auto") -> None:
    """Write the page of a run; what is missing for it is said on the page and on stderr. Raises MtError."""
    run = open_run_dir(run_dir)
    config = load_config(run.config)
    metrics, missing = read_metrics(run.metrics)
    counts = pair_counts(run)
    sets: list[page.ScoredSet] = []
    heat_maps: list[page.HeatMap] = []
    scored = ""
    if checkpoint == "best" and not (run.checkpoints / "best").is_file():
        missing.append("The run has no checkpoint yet: nothing could be translated.")
    else:
        translator = Translator.load(run_dir, checkpoint=checkpoint, device=device)
        scored = find_checkpoint(run.checkpoints, checkpoint).name
        for each in evaluation_sets(config, missing):
            say(f"{each.name}: translating {len(each.src):,} sentences")
            sets.append(examine(each, translator, tgt_lang=config.data.tgt_lang))
            heat_maps = heat_maps or draw_heat_maps(each.src, translator)
    for sentence in missing:
        say(sentence)
    report = page.Report(
        name=run.path.resolve().name,
        languages=f"{config.data.src_lang} → {config.data.tgt_lang}",
        summary=summarise(config, metrics, counts),
        facts=list_facts(config, metrics, counts, checkpoint=scored),
        metrics=metrics,
        samples=follow_samples(metrics),
        sets=sets,
        heat_maps=heat_maps,
        instructive=analysis.INSTRUCTIVE,
        fewest=analysis.FEWEST,
        missing=missing,
        config=dump_config(config),
        made_with=", ".join(f"{name} {_version(package)}" for name, package in PACKAGES.items()),
    )
    with whole_file(output) as file:
        file.write(page.report_page(report).encode(errors="replace"))
    say(f"{output}: {output.stat().st_size / 1000:,.0f} kB")


# What was translated


def evaluation_sets(config: Config, missing: list[str]) -> list[EvalSet]:
    """The sets that `mt evaluate` would score, but for those whose files cannot be read."""
    if not config.data.test:
        missing.append(f"The config has no test sets: scored is {config.data.valid.name}, which chose the checkpoint.")
    sets = []
    for section in config.data.test or (config.data.valid,):
        try:
            sets.append(configured_set(section, config.data))
        except DataError as error:
            missing.append(f"{section.name} could not be scored: {error}.")
    return sets


def examine(each: EvalSet, translator: Translator, *, tgt_lang: str) -> page.ScoredSet:
    """Translate a set; score it as a whole and by length, and choose what to look at."""
    translations = [found[0] for found in translator.n_best(each.src)]
    hyps, tokenize = [found.text for found in translations], bleu_tokenizer(tgt_lang)
    judged = []
    for src, found, *refs in zip(each.src, translations, *each.refs, strict=True):
        num_tokens = sum(len(part.tgt) for part in found.parts) or 1
        ref = max(refs, key=lambda ref: analysis.sentence_chrf(found.text, [ref])) if len(refs) > 1 else refs[0]
        chrf, probability = analysis.sentence_chrf(found.text, refs), math.exp(found.log_prob / num_tokens)
        judged.append(analysis.Judged(src, found.text, ref, chrf, probability))

    def scores(indices: Sequence[int], metrics: Sequence[str]) -> list[page.Score]:
        refs = [[lines[i] for i in indices] for lines in each.refs]
        estimates = analysis.estimate_corpus([hyps[i] for i in indices], refs, metrics=metrics, tokenize=tokenize)
        return [page.Score(e.name, e.value, e.half_width, *e.interval, e.signature) for e in estimates]

    unit, buckets = analysis.length_buckets(each.src)
    examples = analysis.choose_examples(judged, num_each=NUM_EXAMPLES)
    return page.ScoredSet(
        name=each.name,
        num_sentences=len(hyps),
        scores=scores(range(len(hyps)), ("bleu", "chrf", "ter")),
        length_unit=unit,
        by_length=[
            page.LengthScores(bucket.label, len(bucket.indices), scores(bucket.indices, ("bleu", "chrf")))
            for bucket in buckets
        ],
        examples={
            kind: [show_example(judged[e.sentence], number=e.sentence + 1, reason=e.reason) for e in found]
            for kind, found in examples.items()
        },
    )


def show_example(judged: analysis.Judged, *, number: int, reason: str) -> page.Example:
    """A sentence as the page shows it."""
    hyp, ref = analysis.word_diff(judged.hyp, judged.ref)
    return page.Example(number, reason, judged.src, ref, hyp, judged.chrf, judged.probability)


def draw_heat_maps(sources: Sequence[str], translator: Translator) -> list[page.HeatMap]:
    """Cross-attention of a few short sentences from all over the set: the mean of the heads of the upper layers."""
    short = [text for text in sources if len(analysis.words(text)) in HEAT_MAP_WORDS]
    heat_maps = []
    for place in np.linspace(0, len(short) - 1, min(NUM_HEAT_MAPS, len(short))).round().astype(int):
        maps = attention_maps(translator, short[place], target=None, name="")
        queries, keys = legible(maps.sides["tgt_out"]), legible(maps.sides["src"])
        upper = np.stack(maps.weights["cross"][len(maps.weights["cross"]) // 2 :])  # (layers, heads, queries, keys)
        weights = over_words(upper.mean(axis=(0, 1))[None], queries, keys)[0]
        heat_maps.append(page.HeatMap(queries.words, keys.words, weights))
    return heat_maps


def legible(side: Side) -> Side:
    """The side as it is or, of a text without spaces, where one word is most of it, with every subword for a word."""
    if 2 * np.bincount(side.word_index).max() <= len(side.subwords):
        return side
    return side._replace(words=readable(side.subwords), word_index=list(range(len(side.subwords))))


# What was written down while it trained


def read_metrics(path: Path) -> tuple[list[MetricsLine], list[str]]:
    """The lines of metrics.jsonl, and what is wrong with the file: a run that is going may be writing its last line."""
    if not path.is_file():
        return [], [f"There is no {path.name}: nothing is known of the training."]
    found: list[MetricsLine] = []
    num_broken = 0
    for line in path.read_bytes().splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append(value)
        else:
            num_broken += 1
    broken = f"{num_broken:,} line{'s' if num_broken > 1 else ''} cannot be read"
    missing = [f"{path.name}: {broken}; a run that goes on may be writing the last."] if num_broken else []
    if not page.of_kind(found, "train"):
        missing.append("No update has been logged yet.")
    if not page.of_kind(found, "valid"):
        missing.append("There has been no validation yet.")
    return found, missing


def follow_samples(metrics: Sequence[MetricsLine]) -> list[page.Sample]:
    """The sample sentences, each with what became of it; a translation that stays the same is one version."""
    samples: dict[tuple[str, str], list[page.Version]] = {}
    for line in page.of_kind(metrics, "valid"):
        for src, ref, hyp in (Sample(**sample) for sample in line.get("samples", [])):
            versions = samples.setdefault((src, ref), [])
            if versions and "".join(text for text, _ in versions[-1].hyp) == hyp:
                versions[-1] = versions[-1]._replace(last_step=line["step"])
            else:
                spans, chrf = analysis.word_diff(hyp, ref)[0], analysis.sentence_chrf(hyp, [ref])
                versions.append(page.Version(line["step"], line["step"], spans, chrf))
    return [page.Sample(src, ref, versions) for (src, ref), versions in samples.items()]


def pair_counts(run: RunDir) -> PairCounts | None:
    """How many pairs were trained on; None when the run's cache, which knows it, is gone."""
    try:
        digest = load_meta(find_checkpoint(run.checkpoints, "last"))["data_digest"]
    except (CheckpointError, KeyError):
        digest = "*"
    found = sorted(run.cache.glob(f"{digest}/meta.json"))
    if len(found) != 1:
        return None
    meta = json.loads(found[0].read_text(encoding="utf-8"))
    return PairCounts(meta["num_pairs"], FilterCounts(**meta["counts"]))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
