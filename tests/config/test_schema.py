"""Configs are checked against the schema, and each mistake is one line with its place and key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pydantic
import pytest

from mt.config.keys import walk_keys
from mt.config.load import diff_configs, dump_config, load_config, load_run_config
from mt.config.schema import Config, CorpusConfig, EvalSetConfig, ModelConfig
from mt.errors import ConfigError

CONFIGS = sorted(Path(__file__).parents[2].joinpath("configs").rglob("*.yaml"))

MINIMAL = """\
data:
  src_lang: en
  tgt_lang: "no"
  train:
    - prefix: train
  valid:
    name: valid
    prefix: valid
train:
  max_steps: 100
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(tmp_path: Path, text: str, overrides: tuple[str, ...] = ()) -> str:
    """Return the one-line error of a config, with `x.yaml` for the path of its file."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "x.yaml")


def test_missing_keys_have_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert config.model == ModelConfig()
    assert config.train.max_steps == 100
    assert config.train.learning_rate == 7e-4
    assert config.search.beam_size == 5


def test_bare_heading_is_an_empty_section(tmp_path: Path) -> None:
    expected = load_config(write(tmp_path, MINIMAL))
    assert load_config(write(tmp_path, MINIMAL + "model:\n")) == expected


def test_no_is_a_language_with_or_without_quotes(tmp_path: Path) -> None:
    assert '"no"' in MINIMAL
    assert load_config(write(tmp_path, MINIMAL)).data.tgt_lang == "no"
    assert load_config(write(tmp_path, MINIMAL.replace('"no"', "no"))).data.tgt_lang == "no"


def test_integer_is_accepted_as_float(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), ["train.learning_rate=1"])
    assert config.train.learning_rate == 1.0


def test_paths_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    path = write(tmp_path / "configs", MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_config(path).data.train[0].prefix == str(tmp_path / "train")
    assert load_config(path, ["train.run_dir=/a/../b"]).train.run_dir == "/b"


def test_plain_path_stands_for_a_corpus_or_an_evaluation_set(tmp_path: Path) -> None:
    text = """\
data:
  src_lang: en
  tgt_lang: sv
  train: corpus
  valid: dev/valid
  test: [news, {name: b, tsv: b.txt}]
train: {max_steps: 1}
"""
    data = load_config(write(tmp_path, text)).data
    assert data.train == (CorpusConfig(prefix="corpus"),)
    assert data.valid == (EvalSetConfig(name="valid", prefix="dev/valid"),)
    news, other = data.test
    assert news == EvalSetConfig(name="news", prefix="news")
    assert other == EvalSetConfig(name="b", tsv="b.txt")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("corpus", "prefix"),
        ("corpus.en-sv", "prefix"),
        ("swe.txt", "tsv"),
        ("swe.tsv", "tsv"),
        ("swe.TSV.gz", "tsv"),
        ("a.tmx", "tmx"),
        ("a.tmx.zst", "tmx"),
        ("a.gz", "prefix"),
    ],
)
@pytest.mark.parametrize("override", ["data.train={}", "data.train=[{}]", "data.train=[x, {}]"])
def test_ending_of_a_plain_path_decides_what_it_is(
    tmp_path: Path, path: str, key: str, override: str
) -> None:
    config = load_config(write(tmp_path, MINIMAL), [override.format(path)])
    assert config.data.train[-1] == CorpusConfig(**{key: path})


def test_one_corpus_needs_no_list(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), ["data.train={tsv: a, columns: [2, 1]}"])
    assert config.data.train == (CorpusConfig(tsv="a", columns=(2, 1)),)


def test_one_teacher_needs_no_list(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), ["train.teacher=/runs/large"])
    assert config.train.teacher == ("/runs/large",)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    assert load_run_config(tmp_path / "run.yaml") == config


def test_config_with_all_forms_of_text_is_written_and_read_back(tmp_path: Path) -> None:
    override = "data.train=[a, {tsv: b, columns: [en, sv]}, {tsv: c}, {tmx: d}, {src: e, tgt: f}]"
    config = load_config(write(tmp_path, MINIMAL), [override])
    (tmp_path / "run.yaml").write_text(dump_config(config))
    assert load_run_config(tmp_path / "run.yaml") == config


def test_config_is_frozen(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.model.d_model = 1
    assert hash(config) == hash(load_config(tmp_path / "x.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle:\n  d_ff: 4\n", "x.yaml:11: modle: unknown key (did you mean model?)"),
        (
            "model:\n  n_heads: 4\n",
            "x.yaml:12: model.n_heads: unknown key (did you mean num_heads?)",
        ),
        (
            "model:\n  beam_size: 4\n",
            "x.yaml:12: model.beam_size: unknown key (did you mean search.beam_size?)",
        ),
        ("d_model: 4\n", "x.yaml:11: d_model: unknown key (did you mean model.d_model?)"),
        (
            "search:\n  beamsize: 4\n",
            "x.yaml:12: search.beamsize: unknown key (did you mean beam_size?)",
        ),
        (
            "zzz: 4\n",
            "x.yaml:11: zzz: unknown key (known here: data, tokenizer, model, train, search, evaluation)",
        ),
        ("model: 4\n", "x.yaml:11: model: wanted a section of keys, found 4"),
        ("model:\n  d_model: '4'\n", 'x.yaml:12: model.d_model: wanted a valid integer, found "4"'),
        ("model:\n  d_model: 4.0\n", "x.yaml:12: model.d_model: wanted a valid integer, found 4.0"),
        (
            "model:\n  d_model: true\n",
            "x.yaml:12: model.d_model: wanted a valid integer, found true",
        ),
        ("model:\n  d_model:\n", "x.yaml:12: model.d_model: wanted a valid integer, found null"),
        ("model:\n  d_model: 0\n", "x.yaml:12: model.d_model: wanted greater than 0, found 0"),
        (
            "model:\n  d_model: 1000000000\n",
            "x.yaml:12: model.d_model: wanted at most 65536, found 1000000000",
        ),
        (
            "model:\n  num_encoder_layers: 300\n",
            "x.yaml:12: model.num_encoder_layers: wanted at most 256, found 300",
        ),
        (
            "search:\n  beam_size: 1001\n",
            "x.yaml:12: search.beam_size: wanted at most 1000, found 1001",
        ),
        ("model:\n  dropout: 1\n", "x.yaml:12: model.dropout: wanted less than 1, found 1"),
        (
            "model:\n  dropout: .nan\n",
            "x.yaml:12: model.dropout: wanted a finite number, found NaN",
        ),
        (
            "model:\n  dropout: nan\n",
            'x.yaml:12: model.dropout: wanted a valid number, found "nan"',
        ),
        (
            "model:\n  dropout: true\n",
            "x.yaml:12: model.dropout: wanted a valid number, found true",
        ),
        ("model:\n  norm: Pre\n", "x.yaml:12: model.norm: wanted 'pre' or 'post', found \"Pre\""),
        (
            "tokenizer:\n  joint: yes\n",
            'x.yaml:12: tokenizer.joint: wanted true or false, found "yes"',
        ),
        (
            "tokenizer:\n  model: 7\n",
            "x.yaml:12: tokenizer.model: wanted text (in quotes if it looks like a number), found 7",
        ),
        (
            'tokenizer:\n  model: "a\\nb"\n',
            r'x.yaml:12: tokenizer.model: wanted a path without control characters, found "a\nb"',
        ),
        (
            "tokenizer:\n  model: ''\n",
            'x.yaml:12: tokenizer.model: wanted text that is not empty, found ""',
        ),
    ],
)
def test_error_names_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    assert error_of(tmp_path, MINIMAL + text) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    - prefix", "    - prefx", "x.yaml:5: data.train.0.prefx: unknown key (did you mean prefix?)"),
        ("    prefix: valid", "    prefx: valid", "x.yaml:8: data.valid.prefx: unknown key (did you mean prefix?)"),
        ("src_lang: en", "source: en", "x.yaml:2: data.source: unknown key "
         "(known here: src_lang, tgt_lang, train, valid, test, tags, sampling_temperature, "
         "normalization, unseen_character_fraction, max_length, max_length_ratio)"),
        ("    name: valid\n    prefix: valid\n", "", "x.yaml:6: data.valid.name: wanted a value, found nothing"),
        ("  src_lang: en\n", "", "x.yaml:1: data.src_lang: wanted the source language, such as en, found nothing"),
        ("train:\n  max", "search:\n  max", "x.yaml:10: search.max_steps: unknown key (did you mean train.max_steps?)"),
        ("train:\n  max_steps: 100\n", "", "x.yaml: train: wanted a section with an end to training: max_steps, max_epochs or max_minutes, found nothing"),
        ("src_lang: en", "src_lang: e/n", "x.yaml:2: data.src_lang: "
         "wanted a name of letters, digits, '_', '.' and '-', found \"e/n\""),
        ("\n    - prefix: train", " 5", "x.yaml:4: data.train: wanted a list, found 5"),
        ("\n    - prefix: train", " []", "x.yaml:4: data.train: wanted 1 or more items, found []"),
        ("- prefix: train", "- 5", "x.yaml:5: data.train.0: wanted a section of keys, found 5"),
        ("- prefix: train", "- prefix: train\n    - {prefix: b, weight: 0}",
         "x.yaml:6: data.train.1.weight: wanted greater than 0, found 0"),
    ],
)  # fmt: skip
def test_error_in_data_section_names_line_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in MINIMAL
    assert error_of(tmp_path, MINIMAL.replace(old, new)) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {max_steps: 1}", "x.yaml: data: wanted a section with src_lang, tgt_lang, train"),
        (
            "data: {src_lang: en, tgt_lang: de, valid: v}",
            "x.yaml:1: data.train: wanted the training",
        ),
        ("data: {src_lang: en, tgt_lang: de, train: t}", "x.yaml:1: data.valid: wanted the valida"),
        (
            "data: {src_lang: en, tgt_lang: de, train: t, valid: v}",
            "x.yaml: train: wanted a section with an end to training: max_steps",
        ),
    ],
)
def test_missing_section_says_which_keys_are_wanted(
    tmp_path: Path, text: str, message: str
) -> None:
    assert error_of(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("model.n_heads=4", "--set model.n_heads=4: unknown key (did you mean num_heads?)"),
        ("modle.d_ff=4", "--set modle.d_ff=4: modle: unknown key (did you mean model?)"),
        (
            "model={n_heads: 4}",
            "--set model={n_heads: 4}: model.n_heads: unknown key (did you mean num_heads?)",
        ),
        ("model.d_model=x", '--set model.d_model=x: wanted a valid integer, found "x"'),
        (
            "train.betas=[0.9]",
            "--set train.betas=[0.9]: train.betas.1: wanted a value, found nothing",
        ),
        (
            "train.betas=[0, 0, 0]",
            "--set train.betas=[0, 0, 0]: wanted no more than 2 items, found [0, 0, 0]",
        ),
        (
            "train.betas=[0, 1]",
            "--set train.betas=[0, 1]: train.betas.1: wanted less than 1, found 1",
        ),
        (
            "train.learning_rate",
            "--set train.learning_rate: wanted KEY=VALUE, such as train.learning_rate=3e-4",
        ),
        (
            "data.train.1.weight=2",
            "--set data.train.1.weight=2: wanted the number of an item, below 1, found 1",
        ),
        (
            "data.valid.0=1",
            "--set data.valid.0=1: unknown key (known here: name, prefix, src, refs, tsv, columns, tmx, "
            "src_lang, tgt_lang)",
        ),
        ("train.seed=-1", "--set train.seed=-1: wanted greater than or equal to 0, found -1"),
        (
            "train.learning_rate=1e999",
            "--set train.learning_rate=1e999: wanted a finite number, found Infinity",
        ),
    ],
)
def test_error_in_override_names_the_override(tmp_path: Path, overrides: str, message: str) -> None:
    assert error_of(tmp_path, MINIMAL, (overrides,)) == message


def test_overrides_change_sections_and_lists_and_last_one_wins(tmp_path: Path) -> None:
    overrides = [
        "data.train.0.weight=0.5",
        "search.beam_size=2",
        "search.beam_size=3",
        "train.schedule=cosine",
        "train.warmup_steps=10",
    ]
    config = load_config(write(tmp_path, MINIMAL), overrides)
    assert config.data.train[0].weight == 0.5
    assert config.search.beam_size == 3
    assert config.train.schedule == "cosine"


EXISTING_TOKENIZERS = (
    "tokenizer.joint=false; tokenizer.src_model=a; tokenizer.tgt_model=b; model.tie_embeddings=none"
)
NO_TEXT = "wanted a prefix, or tsv, or tmx, or both src and tgt"
TWO_TEXTS = "wanted one of prefix, tsv, tmx, or src and tgt; found prefix and src"
TWO_EVAL_TEXTS = "wanted one of prefix, tsv, tmx, or src and refs; found prefix and refs"


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        ("data.train.0.prefix=null", "data.train.0.prefix", NO_TEXT),
        ("data.train.0.src=a", "data.train.0.prefix", TWO_TEXTS),
        ("data.train=[{tsv: a, tmx: b}]", "data.train.0.tsv",
         "wanted one of prefix, tsv, tmx, or src and tgt; found tsv and tmx"),
        ("data.train=[{src: a}]", "data.train.0.src", "wanted both src and tgt, found only src"),
        ("data.train.0.columns=[1, 2]", "data.train.0.columns", "are those of a tsv file: wanted tsv"),
        ("data.train=[{tsv: a, columns: [1, x]}]", "data.train.0.columns",
         "wanted two numbers or two names, found one of each"),
        ("data.train=[{tsv: a, columns: [2, 2]}]", "data.train.0.columns",
         "wanted two columns, found 2 twice"),
        ("data.valid.prefix=null; data.valid.src=a", "data.valid.src", "wanted both src and refs, found only src"),
        ("data.valid.refs=[a]", "data.valid.prefix", TWO_EVAL_TEXTS),
        ("data.train.0.tgt_lang=de", "data.tgt_lang",
         "wanted a target language of data.train (de), found no"),
        ("data.valid.tgt_lang=de", "data.valid.tgt_lang",
         "wanted a target language of data.train (no), found de"),
        ("data.train.0.tag=2de", "data.train.0.tag",
         "wanted a name that does not begin with 2, which marks the tag of a target language; found 2de"),
        ("data.train.0.tag=bt; data.tags=[2no]", "data.tags",
         "wanted also bt, which data.train needs"),
        ("data.tags=[bt, bt]", "data.tags", "wanted each name once, found bt, bt"),
        ("data.sampling_temperature=5", "data.sampling_temperature",
         "is for several language pairs; for corpora of one pair, use data.train.N.weight"),
        ("data.test=[{name: valid, prefix: x}]", "data.test.0.name",
         "wanted a name of its own, found valid a second time"),
        ("tokenizer.src_model=a", "tokenizer.src_model",
         "wanted no src_model and tgt_model with joint: true (model names a joint one)"),
        ("tokenizer.joint=false; tokenizer.model=a", "tokenizer.model",
         "wanted src_model and tgt_model with joint: false"),
        ("tokenizer.joint=false; tokenizer.tgt_model=a", "tokenizer.tgt_model",
         "wanted both src_model and tgt_model, found one"),
        ("tokenizer.model=a; tokenizer.vocab_size=9", "tokenizer.vocab_size",
         "shapes a new tokenizer, but model names an existing one"),
        (f"{EXISTING_TOKENIZERS}; tokenizer.kind=unigram", "tokenizer.kind",
         "shapes a new tokenizer, but src_model names an existing one"),
        ("model.num_heads=3", "model.num_heads", "wanted a divisor of model.d_model (256), found 3"),
        ("model.num_heads=1; model.d_model=5", "model.d_model",
         "wanted an even number (positions are pairs of sine and cosine), found 5"),
        ("model.d_model=65536; model.d_ff=65536", "model.d_model",
         "wanted layers of at most 2e+10 parameters in all, found 3e+11"),
        ("tokenizer.joint=false", "model.tie_embeddings",
         "all shares one matrix, but tokenizer.joint is false: wanted decoder or none"),
        ("train.max_steps=null", "train.max_steps", "wanted an end to training: max_steps, max_epochs or max_minutes"),
        ("train.device=cpu; train.precision=fp16", "train.precision",
         "fp16 needs cuda: wanted auto, fp32 or bf16 with device: cpu"),
        ("train.device=cpu; train.compile=true", "train.compile", "is slower on a cpu: wanted false, or device: cuda"),
        ("train.teacher=a; train.r_drop=5", "train.r_drop", "cannot be combined with teacher: wanted one of them"),
        ("train.teacher_weight=0.9", "train.teacher_weight", "is for distillation: wanted teacher"),
        ("train.teacher_checkpoint=last", "train.teacher_checkpoint", "is for distillation: wanted teacher"),
        ("train.r_drop=5; model.dropout=0", "train.r_drop",
         "needs dropout, which is 0: wanted model.dropout above 0"),
        ("train.batch_tokens=100", "train.batch_tokens", "wanted data.max_length (256) or more, found 100"),
    ],
)  # fmt: skip
def test_conflicting_values_are_refused(
    tmp_path: Path, overrides: str, key: str, problem: str
) -> None:
    message = error_of(tmp_path, MINIMAL, tuple(overrides.split("; ")))
    assert message.endswith(f": {problem}")
    assert key in message


def test_conflict_names_its_line(tmp_path: Path) -> None:
    text = MINIMAL + "model:\n  d_model: 256\n  num_heads: 3\n"
    message = error_of(tmp_path, text)
    assert message == "x.yaml:13: model.num_heads: wanted a divisor of model.d_model (256), found 3"


@pytest.mark.parametrize(
    "overrides",
    [
        EXISTING_TOKENIZERS,
        "tokenizer.model=a",
        "data.train=[{src: a, tgt: b, src_lang: fr}]",
        "train.r_drop=5; model.dropout=0; model.attention_dropout=0.1",
    ],
)
def test_valid_combination_is_accepted(tmp_path: Path, overrides: str) -> None:
    load_config(write(tmp_path, MINIMAL), overrides.split("; "))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_example_config_round_trips_through_yaml(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_text_like_a_number_round_trips_through_yaml(tmp_path: Path) -> None:
    overrides = ['data.valid.name="1e-4"', 'data.src_lang="010"']
    config = load_config(write(tmp_path, MINIMAL), overrides)
    assert config.data.valid[0].name == "1e-4"
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_name_with_other_letters_is_refused(tmp_path: Path) -> None:
    override = "data.test=[{name: é, src: 'a: b', refs: [a, b]}]"
    assert "data.test.0.name" in error_of(tmp_path, MINIMAL, (override,))


def test_diff_lists_key_old_and_new_value(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    old = load_config(path, ["train.learning_rate=0.001"])
    new = load_config(
        path,
        ["train.learning_rate=0.002", "data.test=[{name: t, prefix: /t}]", "train.max_minutes=2"],
    )
    assert diff_configs(old, old) == []
    assert [str(difference) for difference in diff_configs(old, new)] == [
        "train.learning_rate: 0.001 -> 0.002",
        "train.max_minutes: null -> 2.0",
        'data.test.0.name: absent -> "t"',
        'data.test.0.prefix: absent -> "/t"',
        "data.test.0.src: absent -> null",
        "data.test.0.tsv: absent -> null",
        "data.test.0.columns: absent -> null",
        "data.test.0.tmx: absent -> null",
        "data.test.0.src_lang: absent -> null",
        "data.test.0.tgt_lang: absent -> null",
    ]


def test_every_key_has_a_one_line_description() -> None:
    fields = dict(walk_keys(Config))
    some_keys = {"model.norm", "data.train.N.weight", "data.valid.N.refs", "data.test.N.refs"}
    assert some_keys <= set(fields)
    for key, field in fields.items():
        assert field.description, key
        assert "\n" not in field.description, key
        assert "|" not in field.description, f"{key}: would break the table of keys"


def test_every_number_has_bounds(tmp_path: Path) -> None:
    numbers = []
    for key, field in walk_keys(Config):
        types = {field.annotation, *get_args(field.annotation)}
        if types & {int, float}:
            numbers.append(key.replace("train.N", "train.0"))
    assert len(numbers) > 30
    for key in numbers:
        for value in ("1e300", "-1e300", "1" + "0" * 99, "-1" + "0" * 99):
            message = error_of(tmp_path, MINIMAL, (f"{key}={value}",))
            assert message.startswith(f"--set {key}={value}: wanted ")


def test_reading_configs_imports_no_torch() -> None:
    program = """
import sys
import mt.config.load
assert not {"torch", "numpy", "sentencepiece"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
