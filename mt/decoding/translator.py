"""Translation of text: a trained model, its tokenizers and beam search in one object.

`Translator` loads a run; Python programs use it. The steps before and after the search are in
mt/decoding/text_translator.py, the search is in mt/decoding/segment_search.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, overload

import torch

from mt.config.load import load_run_config
from mt.data.normalization import Normalizer
from mt.data.source_stats import SourceStats
from mt.data.tags import language_tag
from mt.data.tokenizer import Tokenizer
from mt.decoding.alignment import align_pairs
from mt.decoding.attention import SentenceAttention, attend
from mt.decoding.minimum_bayes_risk import MinimumBayesRisk
from mt.decoding.sampling import SamplingOptions
from mt.decoding.scoring import PairScore, score_pairs
from mt.decoding.segment_search import SegmentSearch
from mt.decoding.text_translator import TextTranslator, change_search
from mt.decoding.translation import Alignment, Target, Translation
from mt.device import DTYPES, find_device, find_dtype, oom_as_device_error
from mt.errors import CheckpointError, RunDirError
from mt.model.transformer import Transformer
from mt.storage.checkpoint import META, find_checkpoint, load_weights, weights_digest
from mt.storage.run_dir import open_run_dir


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Translator(TextTranslator):
    """Translates texts with a trained model, or with several as an ensemble.

    The translation of a text does not depend on the other texts of the same call, except for
    near-ties: the shape of a batch changes the last bits of a sum, and this may change the order of
    two hypotheses with scores that are equal to six digits
    (`scripts/benchmarks/batch_invariance.py` counts such cases). A translator that is loaded with
    `exact` searches each text alone, so there are no such cases.
    """

    model: Transformer = field(kw_only=False)
    # The other models of an ensemble, with the same tokenizers. Alignments and attention are those
    # of `model` alone.
    more_models: tuple[Transformer, ...] = ()
    sampling: SamplingOptions | None = None  # None: beam search
    mbr: MinimumBayesRisk | None = None  # chooses among samples; None: take them as they are

    def __repr__(self) -> str:
        num_parameters = sum(model.num_parameters for model in self.models)
        weight = self.model.output_weight
        precisions = {dtype: precision for precision, dtype in DTYPES.items()}
        precision = precisions.get(self.model.compute_dtype, str(self.model.compute_dtype))
        ensemble = f"{len(self.models)} models, " if self.more_models else ""
        return (
            f"Translator({self.src_lang} -> {self.tgt_lang}, {ensemble}"
            f"{num_parameters / 1e6:.2f}M parameters, {weight.device.type}, {precision})"
        )

    @property
    def models(self) -> tuple[Transformer, ...]:
        """All models of the ensemble, `model` first."""
        return (self.model, *self.more_models)

    @property
    def max_positions(self) -> int | None:
        """The most tokens that all models have positions for; None: any number."""
        limits = [model.max_length for model in self.models if model.max_length is not None]
        return min(limits, default=None)

    @cached_property
    def tgt_normalizer(self) -> Normalizer:
        """The normalizer of given translations, which are aligned or whose attention is shown."""
        return Normalizer(self.normalization, self.tgt_tokenizer)

    @cached_property
    def segment_search(self) -> SegmentSearch:
        """The search for translations of segments."""
        return SegmentSearch(
            self.models,
            tgt_tokenizer=self.tgt_tokenizer,
            settings=self.search,
            max_positions=self.max_positions,
            sampling=self.sampling,
            mbr=self.mbr,
            on_progress=self.on_progress,
        )

    def describe_model(self) -> dict[str, Any]:
        """Return all that translations depend on: see `TextTranslator.describe_model`."""
        return {
            "model": [weights_digest(model) for model in self.models],
            "device": self.model.output_weight.device.type,
            "precision": str(self.model.compute_dtype),
            "sampling": repr(self.sampling),
            "mbr": repr(self.mbr),
        }

    @classmethod
    @oom_as_device_error("to load this model")
    def load(
        cls,
        run_dir: str | Path,
        *,
        ensemble_with: Sequence[str | Path] = (),
        checkpoint: str = "best",
        device: str = "auto",
        precision: str = "fp32",
        beam_size: int | None = None,
        length_penalty: float | None = None,
        exact: bool = False,
        sampling: SamplingOptions | None = None,
        mbr: MinimumBayesRisk | None = None,
        split_lines: bool = True,
    ) -> Self:
        """Load the model of a run directory. Raises MtError when there is none.

        `ensemble_with` names further run directories with the same tokenizers: their models
        translate together with the first (see mt/decoding/ensemble.py). Settings are those of the
        first run, and `checkpoint` is the name of a checkpoint in each of them. `precision` is
        "fp32", "bf16", "fp16" or "auto", as `train.precision` in a config.

        `beam_size` and `length_penalty` default to the values in the run's config. `exact` searches
        each text alone, so that no bit of a score depends on other texts. This is slower. With
        `sampling`, the translator draws translations of each text instead of searching. With `mbr`,
        it chooses among such samples by minimum Bayes risk (see mt/decoding/minimum_bayes_risk.py).
        Without `split_lines`, a text is translated as a whole if it has at most `data.max_length`
        tokens.
        """
        if mbr is not None and sampling is None:
            raise ValueError("mbr chooses among samples: wanted sampling too")
        translator = cls._load_run(
            run_dir, checkpoint=checkpoint, device=device, precision=precision
        )
        search = change_search(
            translator.search, beam_size=beam_size, length_penalty=length_penalty, exact=exact
        )
        if ensemble_with and (Path(checkpoint) / META).is_file():
            raise CheckpointError(
                f"{checkpoint}: wanted best, last or the name of a checkpoint in each run of the "
                "ensemble, found a path"
            )
        more_models = []
        for other_dir in ensemble_with:
            other = cls._load_run(
                other_dir, checkpoint=checkpoint, device=device, precision=precision
            )
            translator._require_same_tokens(other, other_dir)
            more_models.append(other.model)
        return replace(
            translator,
            search=search,
            more_models=tuple(more_models),
            sampling=sampling,
            mbr=mbr,
            split_lines=split_lines,
        )

    @classmethod
    def _load_run(
        cls, run_dir: str | Path, *, checkpoint: str, device: str, precision: str
    ) -> Self:
        """Load the model of one run directory, with the settings of its config."""
        run = open_run_dir(Path(run_dir))
        config = load_run_config(run.config_path)
        src_path, tgt_path = run.tokenizer_paths(config.tokenizer.joint)
        src_tokenizer = Tokenizer.load(src_path)
        tgt_tokenizer = Tokenizer.load(tgt_path)
        torch_device = find_device(device)
        dtype = find_dtype(precision, torch_device)

        # On the meta device, a model takes no memory. So a config that claims a huge model does no
        # harm: `load_weights` checks that the file has tensors of these shapes, and assigns them.
        with torch.device("meta"):
            model = Transformer(
                config.model,
                src_vocab_size=src_tokenizer.vocab_size,
                tgt_vocab_size=tgt_tokenizer.vocab_size,
                pad_id=src_tokenizer.pad_id,
            )
        load_weights(model, find_checkpoint(run.checkpoints_dir, checkpoint))
        model = model.eval().to(torch_device)
        model.compute_dtype = dtype
        translator = cls(
            model,
            src_tokenizer=src_tokenizer,
            tgt_tokenizer=tgt_tokenizer,
            search=config.search,
            max_length=config.data.max_length,
        )
        source_stats = SourceStats.load(run.source_stats_path)
        return translator.with_run_settings(config, source_stats=source_stats)

    def _require_same_tokens(self, other: Self, run_dir: str | Path) -> None:
        """Raise RunDirError, which names `run_dir`, if the other model has other tokens."""
        facts = {
            "languages": (self._languages, other._languages),
            "source tokenizer": (self.src_tokenizer.digest[:20], other.src_tokenizer.digest[:20]),
            "target tokenizer": (self.tgt_tokenizer.digest[:20], other.tgt_tokenizer.digest[:20]),
            "data.normalization": (self.normalization, other.normalization),
            "tags of target languages": (self._language_tags, other._language_tags),
        }
        for name, (own, others) in facts.items():
            if own != others:
                raise RunDirError(
                    f"{run_dir}: cannot join the ensemble: wanted the {name} of the first run, "
                    f"{own}, found {others}"
                )

    @property
    def _language_tags(self) -> str:
        """The target languages with the ids of their tags."""
        ids = [f"{language} {token_id}" for language, token_id in self.ids_by_language.items()]
        return ", ".join(sorted(ids)) or "none"

    @property
    def tag_names(self) -> dict[int, str]:
        """The name of each tag, as people read it: `<2de>`."""
        return {
            token_id: f"<{language_tag(language)}>"
            for language, token_id in self.ids_by_language.items()
        }

    @property
    def _languages(self) -> str:
        return f"{self.src_lang} -> {self.tgt_lang}"

    # A str is also a Sequence[str]; mypy takes the first overload that fits.
    @overload
    def translate(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        sampling: SamplingOptions | None = None,
        to: str | None = None,
        target_prefix: str | None = None,
    ) -> str: ...

    @overload
    def translate(
        self,
        texts: Sequence[str],
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        sampling: SamplingOptions | None = None,
        to: str | None = None,
        target_prefix: Sequence[str] | None = None,
    ) -> list[str]: ...

    def translate(
        self,
        texts: str | Sequence[str],
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        sampling: SamplingOptions | None = None,
        to: str | None = None,
        target_prefix: str | Sequence[str] | None = None,
    ) -> str | list[str]:
        """Return the best translation of one text, or of each text of a list.

        The translation of a blank text is empty. An option that is None has the translator's own
        value. With `sampling`, the translation is drawn instead of searched. `to` is the
        target language, for a model of several; None stands for `tgt_lang` of its config.

        The translation of a text begins with its `target_prefix`. Spaces at the end of the prefix
        are ignored, and the model may continue its last word: a prefix that ends with a whole word
        works best. A text with a prefix is translated as a whole if it has at most `max_length`
        tokens; otherwise the prefix begins the translation of its first part. A list of texts takes
        a list of prefixes; a blank prefix is none.
        """
        if isinstance(texts, str):
            return self.translate(
                [texts],
                beam_size=beam_size,
                length_penalty=length_penalty,
                sampling=sampling,
                to=to,
                target_prefix=_target_prefixes_of_one_text(target_prefix),
            )[0]
        n_best_lists = self.n_best(
            texts,
            num_translations=1,
            beam_size=beam_size,
            length_penalty=length_penalty,
            sampling=sampling,
            to=to,
            target_prefix=_target_prefixes_of_texts(texts, target_prefix),
        )
        return [translations[0].text for translations in n_best_lists]

    @overload
    def n_best(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        num_translations: int | None = None,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        sampling: SamplingOptions | None = None,
        to: str | None = None,
        target_prefix: str | None = None,
    ) -> list[Translation]: ...

    @overload
    def n_best(
        self,
        texts: Sequence[str],
        *,
        num_translations: int | None = None,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        sampling: SamplingOptions | None = None,
        to: str | None = None,
        target_prefix: Sequence[str] | None = None,
    ) -> list[list[Translation]]: ...

    def n_best(
        self,
        texts: str | Sequence[str],
        *,
        num_translations: int | None = None,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        sampling: SamplingOptions | None = None,
        to: str | None = None,
        target_prefix: str | Sequence[str] | None = None,
    ) -> list[Translation] | list[list[Translation]]:
        """Return up to `num_translations` translations of one text, or of each text, best first.

        The default is `beam_size`. For a larger number, set `beam_size` to it too; otherwise lists
        can be shorter. All translations of a text are different. With sampling,
        exactly `num_translations` are drawn, and some can be equal; equal texts get equal samples.
        With minimum Bayes risk, the best of `mbr.num_samples` samples are returned, all different.
        A text of several parts is translated part by part (see `TextSplitter`). Its k-th
        translation joins the k-th translations of all parts. The other options are those of
        `translate`.
        """
        translator = self._with_options(
            beam_size=beam_size, length_penalty=length_penalty, sampling=sampling
        )
        if num_translations is None:
            num_translations = translator.search.beam_size
        if num_translations < 1:
            raise ValueError(f"wanted num_translations of at least 1, found {num_translations}")
        if isinstance(texts, str):
            target_prefixes = _target_prefixes_of_one_text(target_prefix)
            return translator.n_best_lists(
                [texts], num_translations, to=to, target_prefixes=target_prefixes
            )[0]
        target_prefixes = _target_prefixes_of_texts(texts, target_prefix)
        return translator.n_best_lists(
            texts, num_translations, to=to, target_prefixes=target_prefixes
        )

    @overload
    def score(  # type: ignore[overload-overlap]
        self, src: str, tgt: Target, *, to: str | None = None
    ) -> PairScore: ...

    @overload
    def score(
        self, src: Sequence[str], tgt: Sequence[Target], *, to: str | None = None
    ) -> list[PairScore]: ...

    def score(
        self, src: str | Sequence[str], tgt: Target | Sequence[Target], *, to: str | None = None
    ) -> PairScore | list[PairScore]:
        """Return the log-probability of a target given its source, or of each pair of two lists.

        A target that is a `Translation` of this translator is scored as the tokens that the search
        generated, part by part, so its log-probability is the one that the search reported. A
        target that is a text is encoded and scored as a whole, with a whole source. A search can
        write the same text with other subwords, which have another probability. Both texts are
        normalized as in training.

        Two blank texts have a log-probability of 0, as in a search. A pair of which a side has more
        than 10 times `max_length` tokens is not scored: its log-probability is -inf, and there is a
        warning.
        """
        prefix = self.language_prefix(to)
        if isinstance(src, str):
            (score,) = score_pairs(self, [(src, _single_target(tgt))], prefix=prefix)
            return score
        return list(score_pairs(self, _pairs_of_lists(src, tgt), prefix=prefix))

    @overload
    def align(  # type: ignore[overload-overlap]
        self, src: str, tgt: Target, *, to: str | None = None
    ) -> Alignment: ...

    @overload
    def align(
        self, src: Sequence[str], tgt: Sequence[Target], *, to: str | None = None
    ) -> list[Alignment]: ...

    def align(
        self, src: str | Sequence[str], tgt: Target | Sequence[Target], *, to: str | None = None
    ) -> Alignment | list[Alignment]:
        """Return the links (source word, target word) of a pair, or of each pair of two lists.

        Words are counted from 0. They are read from the cross-attention of one decoder layer (see
        mt/decoding/alignment.py). A target that is a `Translation` of this translator is aligned
        part by part. A text is aligned as a whole, and has no links if it or its source is blank or
        has more than `max_length` tokens.
        """
        prefix = self.language_prefix(to)
        if isinstance(src, str):
            return align_pairs(self, [(src, _single_target(tgt))], prefix=prefix)[0]
        return align_pairs(self, _pairs_of_lists(src, tgt), prefix=prefix)

    def attention(
        self, src: str, tgt: str | None = None, *, to: str | None = None
    ) -> SentenceAttention:
        """Return all attention weights between a sentence and `tgt`, or its own translation.

        The sentence is translated as a whole, even where `translate` splits it. Raises DataError
        for a text that is blank, has a line break, or has more than `max_length` tokens.
        """
        return attend(self, src, tgt, to=to)

    def _with_options(
        self,
        *,
        beam_size: int | None,
        length_penalty: float | None,
        sampling: SamplingOptions | None,
    ) -> Self:
        """Return a translator with these options; None leaves an option as it is."""
        search = change_search(self.search, beam_size=beam_size, length_penalty=length_penalty)
        return replace(self, search=search, sampling=sampling or self.sampling)


def _target_prefixes_of_one_text(
    target_prefix: str | Sequence[str] | None,
) -> Sequence[str] | None:
    """Return the target prefix of a single text as a list. Raises TypeError for a list."""
    if target_prefix is None:
        return None
    if isinstance(target_prefix, str):
        return [target_prefix]
    raise TypeError("wanted one target_prefix for one text, found a list")


def _target_prefixes_of_texts(
    texts: Sequence[str], target_prefixes: str | Sequence[str] | None
) -> Sequence[str] | None:
    """Return the target prefixes of a list of texts. Raises ValueError if their number differs."""
    if target_prefixes is None:
        return None
    if isinstance(target_prefixes, str):
        raise TypeError("wanted a list of target prefixes for a list of texts, found one")
    if len(target_prefixes) != len(texts):
        raise ValueError(
            f"wanted one target_prefix for each text, found {len(texts)} texts and "
            f"{len(target_prefixes)} prefixes"
        )
    return target_prefixes


def _single_target(tgt: Target | Sequence[Target]) -> Target:
    """Return the target of a single source. Raises TypeError for a list of targets."""
    if isinstance(tgt, str | Translation):
        return tgt
    raise TypeError("wanted one target for one source, found a list")


def _pairs_of_lists(src: Sequence[str], tgt: Target | Sequence[Target]) -> list[tuple[str, Target]]:
    """Return the pairs of two lists. Raises ValueError for lists of different lengths."""
    if isinstance(tgt, str | Translation):
        raise TypeError("wanted a list of targets for a list of sources, found one target")
    if len(src) != len(tgt):
        raise ValueError(f"wanted one target for each source, found {len(src)} and {len(tgt)}")
    return list(zip(src, tgt, strict=True))
