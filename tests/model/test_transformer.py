"""Tests of the Transformer: it equals PyTorch's layers, and decoding has the properties it needs.

The properties: incremental decoding equals full decoding, a batch equals its sentences one by one,
padding changes nothing, and beams equal separate sentences.

Models are float64 here, so that equal results agree to ten digits and any leak is visible.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from mt.config.load import load_config
from mt.config.schema import ModelConfig
from mt.errors import ConfigError, DataError
from mt.model.attention import ATTENTION_KINDS, DotProductAttention
from mt.model.feed_forward import ACTIVATIONS, GATED_ACTIVATIONS
from mt.model.kv_cache import AttentionMasks, KVCache
from mt.model.layers import NORM_KINDS
from mt.model.positions import sinusoids
from mt.model.transformer import (
    EMBEDDING_TYING,
    DecoderLayer,
    EncoderLayer,
    Residual,
    Transformer,
)

CONFIGS = Path(__file__).parents[2] / "configs"
PAD_ID = 0
SRC_VOCAB_SIZE = 19
TGT_VOCAB_SIZE = 23
D_MODEL = 16
D_FF = 24
NUM_HEADS = 2
NUM_LAYERS = 2  # in the encoder and in the decoder
MAX_LENGTH = 8  # positions of a dense_synthesizer; no sentence of these tests is longer
SHAPE = {
    "d_model": D_MODEL,
    "d_ff": D_FF,
    "num_heads": NUM_HEADS,
    "num_encoder_layers": NUM_LAYERS,
    "num_decoder_layers": NUM_LAYERS,
}
ALL_DROPOUT_OFF = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "embedding_dropout": 0.0,
    "token_dropout": 0.0,
}

NORMS = ("pre", "post")
TYINGS = ("all", "decoder", "none")

# Settings of models with dot-product attention: all norms, activations and ties of embeddings.
LAYER_VARIANTS = [
    pytest.param(
        {"norm": norm, "activation": activation, "tie_embeddings": tying},
        id=f"{norm}-{activation}-{tying}",
    )
    for norm, activation, tying in product(NORMS, ACTIVATIONS, TYINGS)
]
LAYER_VARIANTS += [
    pytest.param({"norm": norm, "activation": "swiglu"}, id=f"{norm}-swiglu") for norm in NORMS
]
LAYER_VARIANTS += [
    pytest.param({"norm": norm, "norm_kind": "rms_norm"}, id=f"{norm}-rms_norm") for norm in NORMS
]
NORM_VARIANTS = [pytest.param({"norm": norm}, id=norm) for norm in NORMS]
# Settings of models with other attention; dense_synthesizer is for self-attention only.
ATTENTION_VARIANTS = [
    pytest.param(
        {"self_attention": self_kind, "cross_attention": cross_kind},
        id=f"{self_kind}-{cross_kind}",
    )
    for self_kind, cross_kind in product(ATTENTION_KINDS, ATTENTION_KINDS)
    if cross_kind != "dense_synthesizer"
    and (self_kind, cross_kind) != ("dot_product", "dot_product")
]
EVERY_VARIANT = pytest.mark.parametrize("settings", LAYER_VARIANTS + ATTENTION_VARIANTS)
EVERY_NORM_AND_ATTENTION = pytest.mark.parametrize("settings", NORM_VARIANTS + ATTENTION_VARIANTS)
EVERY_NORM_AND_ACTIVATION = pytest.mark.parametrize(
    ("norm", "activation"), list(product(NORMS, ACTIVATIONS))
)


def make_model(**settings: Any) -> Transformer:
    """Return a model in evaluation mode, with random parameters, biases and norms included."""
    if settings.get("self_attention") == "dense_synthesizer":
        settings = {"max_length": MAX_LENGTH, **settings}
    config = ModelConfig(**{**SHAPE, **settings})
    tgt_vocab_size = SRC_VOCAB_SIZE if config.tie_embeddings == "all" else TGT_VOCAB_SIZE
    torch.manual_seed(1)
    model = Transformer(
        config, src_vocab_size=SRC_VOCAB_SIZE, tgt_vocab_size=tgt_vocab_size, pad_id=PAD_ID
    )
    model.double().eval()
    model.compute_dtype = torch.float64
    randomise_parameters(model)
    return model


def make_layer_double(layer: EncoderLayer | DecoderLayer) -> None:
    """Change a layer to float64 and evaluation mode, with random parameters."""
    layer.double().eval()
    for module in layer.modules():
        if isinstance(module, Residual):
            module.compute_dtype = torch.float64
    randomise_parameters(layer)


def randomise_parameters(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def random_ids(*shape: int, seed: int = 1) -> Tensor:
    """Return token ids that are in both vocabularies, none of them padding."""
    return torch.randint(1, SRC_VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))


def compute_states(model: Transformer, src: Tensor, tgt_in: Tensor) -> Tensor:
    with torch.no_grad():
        states: Tensor = model(src, tgt_in)
    return states


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)


def assert_different(first: Tensor, second: Tensor) -> None:
    assert first.shape == second.shape
    assert float((first - second).abs().max()) > 1e-3


# Decoding


@EVERY_VARIANT
@pytest.mark.parametrize("piece_lengths", [[1, 1, 1, 1, 1, 1], [3, 1, 2]])
def test_incremental_decoding_equals_full_decoding(
    settings: dict[str, Any], piece_lengths: list[int]
) -> None:
    model = make_model(**settings)
    src = random_ids(3, 5)
    src[1, 3:] = PAD_ID
    tgt = random_ids(3, 6, seed=2)
    full_logits = model.logits(compute_states(model, src, tgt))
    with torch.no_grad():
        cache = model.start(model.encode(src))
        num_decoded = 0
        pieces = []
        for tgt_piece in tgt.split(piece_lengths, dim=1):
            assert cache.length == num_decoded
            pieces.append(model.decode(tgt_piece, cache))
            num_decoded += tgt_piece.size(1)
    assert_same(model.logits(torch.cat(pieces, dim=1)), full_logits)


def test_gradient_flows_only_through_forward() -> None:
    model = make_model()
    src = random_ids(2, 5)
    tgt = random_ids(2, 3, seed=2)
    assert model(src, tgt).requires_grad
    cache = model.start(model.encode(src))
    for token in tgt.split(1, dim=1):
        assert not model.decode(token, cache).requires_grad
    for kv in (*cache.source, *cache.target):
        assert not kv.keys.requires_grad
        assert not kv.values.requires_grad


def test_wrong_number_of_rows_is_refused() -> None:
    model = make_model()
    cache = model.start(model.encode(random_ids(3, 5)))
    cache.reorder(torch.zeros(3, 2, dtype=torch.long))  # 3 sentences, 2 beams
    with pytest.raises(AssertionError, match="3, 2, 0"):
        model.decode(random_ids(3, 1), cache)


@EVERY_VARIANT
def test_batch_equals_sentences_one_by_one(settings: dict[str, Any]) -> None:
    model = make_model(**settings)
    lengths = [(6, 2), (1, 5), (4, 4), (3, 1)]  # (src_length, tgt_length)
    src = random_ids(4, 6)
    tgt = random_ids(4, 5, seed=2)
    for row, (src_length, tgt_length) in enumerate(lengths):
        src[row, src_length:] = PAD_ID
        tgt[row, tgt_length:] = PAD_ID
    batch_states = compute_states(model, src, tgt)
    for row, (src_length, tgt_length) in enumerate(lengths):
        src_row = src[row : row + 1, :src_length]
        tgt_row = tgt[row : row + 1, :tgt_length]
        assert_same(batch_states[row, :tgt_length], compute_states(model, src_row, tgt_row)[0])


@EVERY_NORM_AND_ATTENTION
@pytest.mark.parametrize(("src_padding", "tgt_padding"), [(3, 0), (0, 4), (2, 2)])
def test_padding_changes_nothing(
    settings: dict[str, Any], src_padding: int, tgt_padding: int
) -> None:
    model = make_model(**settings)
    src = random_ids(2, 4)
    tgt = random_ids(2, 3, seed=2)
    padded_src = nn.functional.pad(src, (0, src_padding), value=PAD_ID)
    padded_tgt = nn.functional.pad(tgt, (0, tgt_padding), value=PAD_ID)
    padded_states = compute_states(model, padded_src, padded_tgt)
    assert_same(padded_states[:, :3], compute_states(model, src, tgt))


@EVERY_NORM_AND_ATTENTION
@pytest.mark.parametrize("position", range(5))
def test_target_token_changes_no_earlier_state(settings: dict[str, Any], position: int) -> None:
    """It changes the state of its own position and all later ones."""
    model = make_model(**settings)
    src = random_ids(2, 4)
    tgt = random_ids(2, 5, seed=2)
    other_tgt = tgt.clone()
    other_tgt[:, position] = tgt[:, position] % (SRC_VOCAB_SIZE - 1) + 1
    states = compute_states(model, src, tgt)
    other_states = compute_states(model, src, other_tgt)
    assert_same(other_states[:, :position], states[:, :position])
    for later in range(position, 5):
        assert_different(other_states[:, later], states[:, later])


@EVERY_NORM_AND_ATTENTION
@pytest.mark.parametrize("position", range(4))
def test_source_token_changes_every_target_state(settings: dict[str, Any], position: int) -> None:
    model = make_model(**settings)
    src = random_ids(2, 4)
    tgt = random_ids(2, 3, seed=2)
    other_src = src.clone()
    other_src[:, position] = src[:, position] % (SRC_VOCAB_SIZE - 1) + 1
    states = compute_states(model, src, tgt)
    other_states = compute_states(model, other_src, tgt)
    for target_position in range(3):
        assert_different(other_states[:, target_position], states[:, target_position])


@EVERY_NORM_AND_ATTENTION
def test_order_of_source_words_matters(settings: dict[str, Any]) -> None:
    model = make_model(**settings)
    src = random_ids(2, 4)
    tgt = random_ids(2, 4, seed=2)
    states = compute_states(model, src, tgt)
    other_states = compute_states(model, src.flip(1), tgt)
    assert_different(other_states[:, -1], states[:, -1])


@EVERY_NORM_AND_ATTENTION
def test_order_of_target_words_matters(settings: dict[str, Any]) -> None:
    model = make_model(**settings)
    src = random_ids(2, 4)
    tgt = random_ids(2, 4, seed=2)
    states = compute_states(model, src, tgt)
    other_states = compute_states(model, src, tgt[:, [1, 0, 2, 3]])
    assert_different(other_states[:, -1], states[:, -1])


# Beams


@EVERY_NORM_AND_ATTENTION
@pytest.mark.parametrize("beam", [1, 3])
def test_beams_equal_separate_sentences(settings: dict[str, Any], beam: int) -> None:
    model = make_model(**settings)
    src = random_ids(3, 5)
    src[0, 2:] = PAD_ID
    tgt = random_ids(3 * beam, 4, seed=2)  # rows = batch * beam
    with torch.no_grad():
        cache = model.start(model.encode(src))
        cache.reorder(torch.zeros(3, beam, dtype=torch.long))
        steps = [model.decode(tokens, cache) for tokens in tgt.split(1, dim=1)]
    repeated_src = src.repeat_interleave(beam, dim=0)
    assert_same(torch.cat(steps, dim=1), compute_states(model, repeated_src, tgt))
    for source in cache.source:
        assert source.keys.size(0) == 3, "beams must share the keys of the source"


def decode_tokens(model: Transformer, tokens: Tensor, cache: KVCache) -> Tensor:
    """Decode one token (batch, beam) of each beam; return states (batch, beam, d_model)."""
    states = model.decode(tokens.view(-1, 1), cache)
    return states.view(*tokens.shape, -1)


@EVERY_NORM_AND_ATTENTION
@pytest.mark.parametrize(
    "min_keys_to_drop", [pytest.param(1, id="always-drop"), pytest.param(1000, id="never-drop")]
)
def test_reorder_and_keep_equal_recomputation(
    settings: dict[str, Any], min_keys_to_drop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make random calls of a search; compare with each beam decoded from scratch."""
    monkeypatch.setattr("mt.model.kv_cache.MIN_KEYS_TO_DROP", min_keys_to_drop)
    model = make_model(**settings)
    generator = torch.Generator().manual_seed(5)
    src = random_ids(5, 6)
    src[1, 3:] = PAD_ID
    src[4, 1:] = PAD_ID
    cache = model.start(model.encode(src))
    prefixes = torch.empty(5, 1, 0, dtype=torch.long)  # (batch, beam, length)
    new_beams = [3, 3, 2, 4, 1, 2]
    kept_sentences = [[0, 1, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 3], [2, 0, 3], [1, 2], [1]]
    for new_beam, kept in zip(new_beams, kept_sentences, strict=True):
        batch, beam, _ = prefixes.shape
        tokens = torch.randint(1, SRC_VOCAB_SIZE, (batch, beam), generator=generator)
        prefixes = torch.cat((prefixes, tokens[..., None]), dim=2)
        states = decode_tokens(model, tokens, cache)
        repeated_src = src.repeat_interleave(beam, dim=0)
        expected = compute_states(model, repeated_src, prefixes.flatten(0, 1))[:, -1]
        assert_same(states.flatten(0, 1), expected)

        beam_index = torch.randint(beam, (batch, new_beam), generator=generator)
        cache.reorder(beam_index)
        prefixes = prefixes[torch.arange(batch)[:, None], beam_index]
        cache.keep_rows(kept)
        prefixes = prefixes[kept]
        src = src[kept]


# Comparison with PyTorch's layers


def copy_attention(ours: DotProductAttention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat((ours.query.weight, ours.key_value.weight)))
    theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, ours.key_value.bias)))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def copy_feed_forward_and_norms(
    ours: EncoderLayer | DecoderLayer, theirs: Any, norms: list[nn.LayerNorm]
) -> None:
    theirs.linear1.load_state_dict(ours.feed_forward.inner.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.outer.state_dict())
    for number, norm in enumerate(norms, start=1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())


def pytorch_settings(norm: str, activation: str) -> dict[str, Any]:
    return {
        "d_model": D_MODEL,
        "nhead": NUM_HEADS,
        "dim_feedforward": D_FF,
        "activation": activation,
        "batch_first": True,
        "norm_first": norm == "pre",
        "dtype": torch.float64,
    }


@EVERY_NORM_AND_ACTIVATION
def test_encoder_layer_equals_pytorch(norm: str, activation: str) -> None:
    torch.manual_seed(1)
    ours = EncoderLayer(ModelConfig(**SHAPE, norm=norm, activation=activation))
    make_layer_double(ours)
    theirs = nn.TransformerEncoderLayer(**pytorch_settings(norm, activation)).eval()
    is_token = torch.arange(5) < torch.tensor([[5], [3]])
    x = torch.randn(2, 5, D_MODEL, dtype=torch.float64)
    with torch.no_grad():
        copy_attention(ours.attention, theirs.self_attn)
        copy_feed_forward_and_norms(
            ours, theirs, [ours.attention_residual.norm, ours.feed_forward_residual.norm]
        )
        expected = theirs(x, src_key_padding_mask=~is_token)
        output = ours(x, is_token[:, None, None, :], torch.arange(5)[None])
    assert_same(output[is_token], expected[is_token])


@EVERY_NORM_AND_ACTIVATION
def test_decoder_layer_equals_pytorch(norm: str, activation: str) -> None:
    torch.manual_seed(1)
    config = ModelConfig(**SHAPE, norm=norm, activation=activation)
    ours = DecoderLayer(config, index=0)
    make_layer_double(ours)
    theirs = nn.TransformerDecoderLayer(**pytorch_settings(norm, activation)).eval()
    is_token = torch.arange(5) < torch.tensor([[5], [3]])
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    x = torch.randn(2, 4, D_MODEL, dtype=torch.float64)
    memory = torch.randn(2, 5, D_MODEL, dtype=torch.float64)
    masks = AttentionMasks(
        self_mask=causal[None, None],
        target_positions=torch.arange(4)[None],
        cross_mask=is_token[:, None, None, :],
        source_positions=torch.arange(5)[None],
    )
    norms = [ours.self_residual.norm, ours.cross_residual.norm, ours.feed_forward_residual.norm]
    with torch.no_grad():
        copy_attention(ours.self_attention, theirs.self_attn)
        copy_attention(ours.cross_attention, theirs.multihead_attn)
        copy_feed_forward_and_norms(ours, theirs, norms)
        expected = theirs(x, memory, tgt_mask=~causal, memory_key_padding_mask=~is_token)
        states = ours(x, ours.project_source(memory, masks.source_positions), masks)
    assert_same(states, expected)


# Initial weights


def make_small_model() -> Transformer:
    """Return a newly initialized model with one encoder layer and one decoder layer."""
    torch.manual_seed(1)
    config = ModelConfig(
        d_model=64, d_ff=128, num_heads=2, num_encoder_layers=1, num_decoder_layers=1
    )
    return Transformer(config, src_vocab_size=9, tgt_vocab_size=9, pad_id=PAD_ID)


def assert_same_initial_range(ours: list[Tensor], theirs: Tensor) -> None:
    """Check that each of our weights starts in the same range as PyTorch's."""
    expected = float(theirs.detach().abs().max())
    for weight in ours:
        assert float(weight.detach().abs().max()) == pytest.approx(expected, rel=0.02)


def assert_attention_starts_like_pytorch(
    ours: DotProductAttention, theirs: nn.MultiheadAttention
) -> None:
    """Queries, keys and values start as one matrix (3 * d_model, d_model), as in PyTorch."""
    keys_and_values = ours.key_value.weight.chunk(2)
    assert_same_initial_range([ours.query.weight, *keys_and_values], theirs.in_proj_weight)
    assert_same_initial_range([ours.output.weight], theirs.out_proj.weight)


def test_weights_start_in_the_range_of_pytorch() -> None:
    model = make_small_model()
    pytorch_model = nn.Transformer(64, 2, 1, 1, 128, batch_first=True)

    encoder_layer: Any = model.encoder_layers[0]
    pytorch_encoder_layer: Any = pytorch_model.encoder.layers[0]
    assert_attention_starts_like_pytorch(encoder_layer.attention, pytorch_encoder_layer.self_attn)

    decoder_layer: Any = model.decoder_layers[0]
    pytorch_decoder_layer: Any = pytorch_model.decoder.layers[0]
    assert_attention_starts_like_pytorch(
        decoder_layer.self_attention, pytorch_decoder_layer.self_attn
    )
    assert_attention_starts_like_pytorch(
        decoder_layer.cross_attention, pytorch_decoder_layer.multihead_attn
    )

    for layer, pytorch_layer in (
        (encoder_layer, pytorch_encoder_layer),
        (decoder_layer, pytorch_decoder_layer),
    ):
        assert_same_initial_range([layer.feed_forward.inner.weight], pytorch_layer.linear1.weight)
        assert_same_initial_range([layer.feed_forward.outer.weight], pytorch_layer.linear2.weight)


def test_biases_start_at_zero() -> None:
    named_parameters = make_small_model().named_parameters()
    biases = [parameter for name, parameter in named_parameters if name.endswith("bias")]
    assert len(biases) == 20
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize("tying", TYINGS)
def test_scaled_embeddings_start_with_unit_variance(tying: str) -> None:
    config = ModelConfig(**{**SHAPE, "d_model": 128}, tie_embeddings=tying)
    model = Transformer(config, src_vocab_size=500, tgt_vocab_size=500, pad_id=PAD_ID).eval()
    ids = torch.arange(500)[:, None]
    position = torch.tensor([0])
    for role in ("src", "tgt"):
        embedded = model._embed(ids, role, position[None])[:, 0].detach()
        variance = float((embedded - sinusoids(position, 128)).var())
        assert variance == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("norm_kind", NORM_KINDS)
def test_first_and_last_layer_of_a_deep_encoder_start_with_similar_gradients(
    norm_kind: Any,
) -> None:
    """So with pre-norm, 24 encoder layers and one decoder layer need no special initial weights.

    With post-norm, the gradient of the first layer is a small part of that of the last.
    """
    torch.manual_seed(1)
    config = ModelConfig(
        d_model=32,
        d_ff=64,
        num_heads=2,
        num_encoder_layers=24,
        num_decoder_layers=1,
        norm_kind=norm_kind,
    )
    model = Transformer(
        config, src_vocab_size=SRC_VOCAB_SIZE, tgt_vocab_size=SRC_VOCAB_SIZE, pad_id=PAD_ID
    )
    src = random_ids(8, 10)
    tgt = random_ids(8, 10, seed=2)
    model.logits(model(src, tgt)).log_softmax(-1)[..., 1].mean().backward()
    first = gradient_norm(model.encoder_layers[0])
    last = gradient_norm(model.encoder_layers[-1])
    assert 0.5 < first / last < 4


def gradient_norm(module: nn.Module) -> float:
    gradients = [parameter.grad for parameter in module.parameters()]
    squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
    return float(sum(squares)) ** 0.5


# Embeddings and parameters


@pytest.mark.parametrize(
    ("tying", "names"),
    [("all", {"shared"}), ("decoder", {"src", "tgt"}), ("none", {"src", "tgt", "output"})],
)
def test_tied_embedding_is_one_parameter(tying: str, names: set[str]) -> None:
    model = make_model(tie_embeddings=tying)
    keys = {key for key in model.state_dict() if key.startswith("embeddings.")}
    assert keys == {f"embeddings.{name}" for name in names}
    parameter_names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert set(model.state_dict()) == parameter_names
    assert any(model.output_weight is parameter for parameter in model.parameters())


def test_a_matrix_that_is_used_twice_counts_once() -> None:
    config = ModelConfig(**SHAPE, tie_embeddings="none")
    tied_config = ModelConfig(**SHAPE, tie_embeddings="all")
    sizes = {"src_vocab_size": 19, "tgt_vocab_size": 19, "pad_id": PAD_ID}
    num_shared = 2 * 19 * config.d_model
    num_parameters = Transformer(config, **sizes).num_parameters
    assert Transformer(tied_config, **sizes).num_parameters == num_parameters - num_shared


def embedding_results(model: Transformer) -> dict[str, Tensor]:
    """Return a result that depends on the embedding, for each role."""
    ids = random_ids(2, 3)
    positions = torch.arange(3)[None]
    return {
        "src": model._embed(ids, "src", positions),
        "tgt": model._embed(ids, "tgt", positions),
        "output": model.logits(torch.ones(D_MODEL, dtype=torch.float64)),
    }


@pytest.mark.parametrize(
    ("tying", "tied_roles"),
    [("all", {"src", "tgt", "output"}), ("decoder", {"tgt", "output"}), ("none", {"output"})],
)
def test_output_weight_is_shared_by_tied_roles(tying: str, tied_roles: set[str]) -> None:
    model = make_model(tie_embeddings=tying)
    before = embedding_results(model)
    with torch.no_grad():
        model.output_weight.mul_(2.0)
    after = embedding_results(model)
    changed_roles = {role for role in before if not torch.equal(before[role], after[role])}
    assert changed_roles == tied_roles


def count_attention_parameters(kind: str) -> int:
    projection = D_MODEL * D_MODEL + D_MODEL
    if kind == "dot_product":
        return 4 * projection  # query, key, value, output
    if kind == "additive":
        return 4 * projection + D_MODEL  # and a vector (head_dim,) for each head
    score_rows = NUM_HEADS * MAX_LENGTH
    word_value_output = 3 * projection
    position = D_MODEL * D_MODEL
    score = score_rows * D_MODEL + score_rows
    return word_value_output + position + score


@EVERY_VARIANT
def test_number_of_parameters(settings: dict[str, Any]) -> None:
    self_attention = count_attention_parameters(settings.get("self_attention", "dot_product"))
    cross_attention = count_attention_parameters(settings.get("cross_attention", "dot_product"))
    num_inner_layers = 2 if settings.get("activation") == "swiglu" else 1
    feed_forward = num_inner_layers * (D_MODEL * D_FF + D_FF) + (D_FF * D_MODEL + D_MODEL)
    norm = D_MODEL if settings.get("norm_kind") == "rms_norm" else 2 * D_MODEL
    encoder = NUM_LAYERS * (self_attention + feed_forward + 2 * norm)
    decoder = NUM_LAYERS * (self_attention + cross_attention + feed_forward + 3 * norm)
    final_norms = 0 if settings.get("norm") == "post" else 2 * norm
    src_embedding = SRC_VOCAB_SIZE * D_MODEL
    tgt_embedding = TGT_VOCAB_SIZE * D_MODEL
    embeddings = {
        "all": src_embedding,
        "decoder": src_embedding + tgt_embedding,
        "none": src_embedding + 2 * tgt_embedding,
    }[settings.get("tie_embeddings", "all")]
    num_parameters = sum(parameter.numel() for parameter in make_model(**settings).parameters())
    assert num_parameters == encoder + decoder + final_norms + embeddings


@EVERY_VARIANT
def test_every_parameter_has_a_gradient(settings: dict[str, Any]) -> None:
    """Except for the bias of the keys in dot-product attention.

    It adds the same number to all scores of a query, which softmax ignores. The sentences are as
    long as a dense_synthesizer allows, so that each of its positions has a gradient.
    """
    model = make_model(**settings)
    src = random_ids(8, MAX_LENGTH)
    tgt = random_ids(8, MAX_LENGTH, seed=2)
    model.logits(model(src, tgt)).square().sum().backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        if is_key_value_bias_of_dot_product(model, name):
            key_gradient, gradient = gradient.chunk(2)
            assert float(key_gradient.abs().max()) < 1e-8
        assert float(gradient.abs().max()) > 1e-6, name
        if name.endswith(("attention.score.weight", "attention.score")):
            # A row for each head, or for each head and position.
            assert (gradient != 0).any(dim=-1).all(), name
        if name.endswith("attention.score.bias"):
            assert (gradient != 0).all(), name


def is_key_value_bias_of_dot_product(model: Transformer, name: str) -> bool:
    suffix = ".key_value.bias"
    if not name.endswith(suffix):
        return False
    attention = model.get_submodule(name.removesuffix(suffix))
    return isinstance(attention, DotProductAttention)


# Longest sentences


@pytest.mark.parametrize(
    ("src_length", "tgt_length"), [(MAX_LENGTH, MAX_LENGTH), (1, MAX_LENGTH), (MAX_LENGTH, 1)]
)
def test_synthesizer_accepts_its_longest_sentence(src_length: int, tgt_length: int) -> None:
    model = make_model(self_attention="dense_synthesizer")
    assert model.max_length == MAX_LENGTH
    states = compute_states(model, random_ids(2, src_length), random_ids(2, tgt_length))
    assert states.shape == (2, tgt_length, D_MODEL)


def assert_too_long(message: str, side: str) -> None:
    """Check that the message names the side, its 9 tokens, the 8 positions and the config key."""
    assert f"{side} sentence" in message
    assert "9 tokens" in message
    assert "8 positions" in message
    assert "model.max_length" in message
    assert "\n" not in message


@pytest.mark.parametrize(("side", "src_length", "tgt_length"), [("source", 9, 8), ("target", 8, 9)])
def test_synthesizer_refuses_longer_sentences(side: str, src_length: int, tgt_length: int) -> None:
    assert MAX_LENGTH == 8
    model = make_model(self_attention="dense_synthesizer")
    with pytest.raises(DataError) as caught:
        model(random_ids(2, src_length), random_ids(2, tgt_length))
    assert_too_long(str(caught.value), side)


def test_synthesizer_refuses_decoding_past_its_last_position() -> None:
    model = make_model(self_attention="dense_synthesizer")
    cache = model.start(model.encode(random_ids(2, 3)))
    for _ in range(MAX_LENGTH):
        model.decode(random_ids(2, 1), cache)
    with pytest.raises(DataError) as caught:
        model.decode(random_ids(2, 1), cache)
    assert_too_long(str(caught.value), "target")


@pytest.mark.parametrize("kind", ["dot_product", "additive"])
def test_other_attention_accepts_any_length(kind: str) -> None:
    model = make_model(self_attention=kind)
    assert model.max_length is None
    states = compute_states(model, random_ids(1, 300), random_ids(1, 300))
    assert states.isfinite().all()


# Dropout


@pytest.mark.parametrize("rate", ALL_DROPOUT_OFF)
def test_each_dropout_rate_acts_in_training_only(rate: str) -> None:
    model = make_model(**{**ALL_DROPOUT_OFF, rate: 0.5})
    model_without_dropout = make_model(**ALL_DROPOUT_OFF)
    src = random_ids(2, 5)
    tgt = random_ids(2, 4, seed=2)
    expected = compute_states(model_without_dropout, src, tgt)
    assert torch.equal(compute_states(model, src, tgt), expected)
    assert_different(compute_states(model.train(), src, tgt), expected)


def test_training_mode_without_dropout_equals_evaluation_mode() -> None:
    model = make_model(**ALL_DROPOUT_OFF)
    src = random_ids(2, 5)
    tgt = random_ids(2, 4, seed=2)
    expected = compute_states(model, src, tgt)
    assert torch.equal(compute_states(model.train(), src, tgt), expected)


def test_dropped_tokens_keep_only_their_position() -> None:
    model = make_model(**{**ALL_DROPOUT_OFF, "token_dropout": 0.3})
    positions = torch.arange(2000)[None]
    ids = random_ids(3, 2000)
    for role in ("src", "tgt"):
        whole = model.eval()._embed(ids, role, positions)
        embedded = model.train()._embed(ids, role, positions)
        only_position = sinusoids(positions, D_MODEL).expand_as(whole)
        is_dropped = (embedded == only_position).all(-1)
        assert torch.equal(embedded[~is_dropped], whole[~is_dropped])  # not scaled up
        assert is_dropped.double().mean().item() == pytest.approx(0.3, abs=0.05)
        assert_different(is_dropped[0].double(), is_dropped[1].double())


def test_token_dropout_draws_from_the_generator_that_a_checkpoint_keeps() -> None:
    model = make_model(**{**ALL_DROPOUT_OFF, "token_dropout": 0.5}).train()
    ids = random_ids(2, 6)
    state = torch.get_rng_state()
    first = compute_states(model, ids, ids)
    assert_different(compute_states(model, ids, ids), first)
    torch.set_rng_state(state)
    assert torch.equal(compute_states(model, ids, ids), first)


def test_without_token_dropout_no_random_number_is_drawn() -> None:
    model = make_model(**ALL_DROPOUT_OFF).train()
    state = torch.get_rng_state()
    compute_states(model, random_ids(2, 6), random_ids(2, 5))
    assert torch.equal(torch.get_rng_state(), state)


def test_embedding_dropout_defaults_to_dropout() -> None:
    assert make_model(dropout=0.3).dropout.p == 0.3
    assert make_model(dropout=0.3, embedding_dropout=0.0).dropout.p == 0.0


# Config


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("activation", ACTIVATIONS | GATED_ACTIVATIONS),
        ("norm_kind", NORM_KINDS),
        ("tie_embeddings", EMBEDDING_TYING),
    ],
)
def test_config_values_are_known_to_the_model(key: str, known: dict[str, Any]) -> None:
    assert set(get_args(ModelConfig.model_fields[key].annotation)) == set(known)


@pytest.mark.parametrize(
    ("override", "key", "content"),
    [
        (
            "model.max_length=63",
            "model.max_length",
            ["data.max_length (64)", "dense_synthesizer", "found 63"],
        ),
        (
            "model.max_length=null",
            "model.max_length",
            ["data.max_length (64)", "dense_synthesizer", "found null"],
        ),
        (
            "model.self_attention=additive",
            "model.max_length",
            ["dense_synthesizer", "wanted null", "self_attention: additive", "found 64"],
        ),
        (
            "model.cross_attention=dense_synthesizer",
            "model.cross_attention",
            ["dense_synthesizer", "source", "dot_product or additive"],
        ),
    ],
)
def test_config_refuses_impossible_synthesizers(
    override: str, key: str, content: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(CONFIGS / "toy-synthesizer.yaml", [override])
    message = str(caught.value)
    for text in (key, *content):
        assert text in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "override", ["model.max_length=64", "model.max_length=500", "data.max_length=10"]
)
def test_config_accepts_synthesizers_with_enough_positions(override: str) -> None:
    load_config(CONFIGS / "toy-synthesizer.yaml", [override])
