"""Exports to Transformers compute, tokenize and translate like the model that was exported."""

from __future__ import annotations

import io
import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from invented_words import INVENTED_WORDS
from random_run import (
    SEVERAL_LANGUAGES,
    TEXTS,
    make_run,
    make_texts,
    make_tokenizers,
)

from mt.data.tokenizer_training import TokenizerKind
from mt.decoding.translator import Translator
from mt.errors import ConfigError
from mt.export.transformers import export

# Texts that test the tokenizer: names of tokens, spaces, escapes, bytes, and normalization.
ODD_TEXTS = [
    "",
    "<s> balo </s> <0x0A> <pad> <tag_1>",
    "  two  spaces\tand a tab ",
    "a▁b \x10 \x10s",
    "\u200bbalo\u200d deru\ufeff",
    "“quoted” – it’s…",
    "Ünï ﬁ ½ 中文 😀",
    "e\u0301 \u00a0x",
    "a\u0301\u200db\u200c\u0301\u200d c",
]


@pytest.fixture(scope="module")
def transformers() -> Any:
    """The library, which is in an extra of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers", reason="needs transformers")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_tokenizers(tmp_path_factory.mktemp("tokenizers"))


def load_model(transformers: Any, directory: Path) -> Any:
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory, local_files_only=True)
    return model.eval()


def load_tokenizer(transformers: Any, directory: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)


def padded(rows: list[list[int]]) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


def up_to_eos(row: list[int]) -> list[int]:
    """Return a row of ids without what Transformers fills it with behind eos."""
    return row[: row.index(3) + 1] if 3 in row else row


def odd_mixtures(num_texts: int) -> list[str]:
    """Return texts that mix words with pieces of the odd texts, without rule."""
    generator = random.Random(7)
    parts = [*INVENTED_WORDS, *"".join(ODD_TEXTS), " ", "ab", "aba", "ЖЖ"]
    lengths = [generator.randint(1, 12) for _ in range(num_texts)]
    return ["".join(generator.choices(parts, k=length)) for length in lengths]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.num_heads=8", "model.num_encoder_layers=1", "model.num_decoder_layers=3"],
        ["model.activation=gelu", "model.d_ff=80"],
        ["model.norm=post"],
    ],
    ids=lambda overrides: "-".join(overrides) or "default",
)
@torch.inference_mode()
def test_logits_are_equal(
    transformers: Any, overrides: list[str], tokenizers: list[Path], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers, overrides)
    export(run_dir, tmp_path / "exported")
    exported = load_model(transformers, tmp_path / "exported")
    translator = Translator.load(run_dir, device="cpu")
    src = padded(translator.src_tokenizer.encode(TEXTS))
    tgt = padded([[2, *row] for row in translator.tgt_tokenizer.encode(TEXTS[::-1])])

    logits = translator.model.logits(translator.model(src, tgt))
    exported_logits = exported(
        input_ids=src, attention_mask=(src != 0).long(), decoder_input_ids=tgt
    ).logits
    is_token = tgt != 0
    assert logits[is_token].std() > 0.1
    torch.testing.assert_close(exported_logits[is_token], logits[is_token], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beam_size", [1, 5])
def test_translations_are_equal(
    transformers: Any, beam_size: int, tokenizers: list[Path], tmp_path: Path
) -> None:
    # Both end a translation after 31 tokens, in ways of their own.
    overrides = [f"search.beam_size={beam_size}", "search.length_penalty=0.8"]
    overrides += ["search.max_length_factor=0.01", "search.max_length_offset=30"]
    run_dir = make_run(tmp_path / "run", tokenizers, overrides)
    export(run_dir, tmp_path / "exported")
    exported = load_model(transformers, tmp_path / "exported")
    tokenizer = load_tokenizer(transformers, tmp_path / "exported")
    translator = Translator.load(run_dir, device="cpu")
    with torch.no_grad():  # a random model seldom writes eos
        weight = translator.model.embedding_weight("output")
        weight[3] *= 3.0
        exported.model.shared.weight.copy_(weight)

    texts = make_texts(80, seed=5)
    rows = [found[0].segments[0].tgt for found in translator.n_best(texts, num_translations=1)]
    generated = exported.generate(**tokenizer(texts, return_tensors="pt", padding=True)).tolist()
    exported_rows = [up_to_eos(row[1:]) for row in generated]
    pairs = zip(rows, exported_rows, strict=True)
    finished = [(ours, theirs) for ours, theirs in pairs if len(ours) < 31]
    assert len({tuple(row) for row, _ in finished}) > 10, "the model ignores its input"
    num_equal = sum(ours == theirs for ours, theirs in finished)
    assert num_equal >= 0.95 * len(finished)  # near-ties may be decided differently


def test_first_token_chooses_the_target_language(
    transformers: Any, tokenizers: list[Path], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers, SEVERAL_LANGUAGES)
    export(run_dir, tmp_path / "exported")
    exported = load_model(transformers, tmp_path / "exported")
    tokenizer = load_tokenizer(transformers, tmp_path / "exported")
    translator = Translator.load(run_dir, device="cpu")
    tokens = json.loads((tmp_path / "exported/target_languages.json").read_text(encoding="utf-8"))
    assert list(tokens) == ["bb", "cc"]

    texts = [text for text in TEXTS if text in translator.src_normalizer(text)]
    source = tokenizer(texts, return_tensors="pt", padding=True)
    default_ids = source["input_ids"].tolist()
    translations = {}
    for language, token in tokens.items():
        source["input_ids"][:, 0] = tokenizer.convert_tokens_to_ids(token)
        found = translator.n_best(texts, num_translations=1, to=language)
        segments = [item[0].segments[0] for item in found]
        rows = [up_to_eos(row) for row in source["input_ids"].tolist()]
        assert rows == [segment.src for segment in segments]
        if language == translator.tgt_lang:
            assert source["input_ids"].tolist() == default_ids
        exported_rows = [up_to_eos(row[1:]) for row in exported.generate(**source).tolist()]
        # A random model seldom ends a translation, and each program has a longest length.
        assert [row[:15] for row in exported_rows] == [segment.tgt[:15] for segment in segments]
        translations[language] = exported_rows
    assert translations["bb"] != translations["cc"]


def test_code_on_the_card_chooses_the_default_language(
    transformers: Any, tokenizers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*SEVERAL_LANGUAGES, "data.tgt_lang=cc", "search.max_length_factor=0.01"]
    run_dir = make_run(tmp_path / "run", tokenizers, overrides)
    export(run_dir, tmp_path / "exported")
    monkeypatch.chdir(tmp_path)
    card = (tmp_path / "exported/README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    translator = Translator.load(run_dir, device="cpu")
    translations = translator.n_best("A sentence.", num_translations=1, to="cc")
    assert names["source"]["input_ids"].tolist() == [translations[0].segments[0].src]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("normalization", ["none", "nfc", "nfkc"])
def test_tokenizer_is_equal(
    transformers: Any, kind: TokenizerKind, normalization: str, tmp_path: Path
) -> None:
    overrides = [f"data.normalization={normalization}", f"tokenizer.kind={kind}"]
    run_dir = make_run(tmp_path / "run", make_tokenizers(tmp_path, kind=kind), overrides)
    export(run_dir, tmp_path / "exported")
    exported = load_tokenizer(transformers, tmp_path / "exported")
    translator = Translator.load(run_dir, device="cpu")
    for text in [*TEXTS, *ODD_TEXTS, *odd_mixtures(400)]:
        ids = translator.src_tokenizer.encode([translator.src_normalizer(text)])[0]
        assert exported(text)["input_ids"] == ids, repr(text)
        decoded = exported.decode(ids, skip_special_tokens=True)
        assert decoded == translator.src_tokenizer.decode([ids])[0]


@pytest.mark.parametrize(
    "settings", [{"user_defined_symbols": ["balo"]}, {"add_dummy_prefix": False}]
)
def test_tokenizers_with_other_rules_for_words_are_refused(
    settings: dict[str, Any], tokenizers: list[Path], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(make_texts(100, seed=1)),
        model_writer=model,
        model_type="bpe",
        vocab_size=330,
        normalization_rule_name="identity",
        byte_fallback=True,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        remove_extra_whitespaces=False,
        minloglevel=2,
        **settings,
    )
    (run_dir / "tokenizer.model").write_bytes(model.getvalue())
    with pytest.raises(ConfigError, match=r"config\.yaml: tokenizer\.model: "):
        export(run_dir, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == [run_dir]


def test_settings_of_the_search_are_exported(tokenizers: list[Path], tmp_path: Path) -> None:
    overrides = ["search.beam_size=4", "search.length_penalty=0.6", "data.max_length=50"]
    run_dir = make_run(tmp_path / "run", tokenizers, overrides)
    export(run_dir, tmp_path / "exported")
    settings = json.loads((tmp_path / "exported/generation_config.json").read_bytes())
    assert settings["num_beams"] == 4
    assert settings["length_penalty"] == 0.6
    assert settings["max_length"] == 1 + 50 + 20
    assert settings["decoder_start_token_id"] == 2
    forbidden_ids = Translator.load(run_dir, device="cpu").tgt_tokenizer.forbidden_ids
    assert settings["suppress_tokens"] == list(forbidden_ids)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["model.cross_attention=additive"], "model.cross_attention"),
        (
            ["model.self_attention=dense_synthesizer", "model.max_length=64"],
            "model.self_attention",
        ),
        (["model.activation=swiglu"], "model.activation"),
        (["model.norm_kind=rms_norm"], "model.norm_kind"),
        (["model.tie_embeddings=none"], "model.tie_embeddings"),
        (["model.tie_embeddings=decoder"], "model.tie_embeddings"),
        (["tokenizer.joint=false", "model.tie_embeddings=none"], "tokenizer.joint"),
    ],
)
def test_what_transformers_lacks_is_refused(
    overrides: list[str], key: str, tokenizers: list[Path], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers, overrides)
    with pytest.raises(ConfigError, match=f"config.yaml: {key}: "):
        export(run_dir, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == [run_dir]
