"""Blocks of decoders: found, replayed exactly and pruned, for many architectures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frontrunner.errors import ConfigError
from frontrunner.methods.pruning.alps import ALPS
from frontrunner.methods.pruning.base import Pruner
from frontrunner.methods.pruning.blockwise import Blockwise, Devices
from frontrunner.methods.pruning.magnitude import Magnitude
from frontrunner.methods.pruning.wanda import Wanda
from frontrunner.models.blocks import Decoder
from frontrunner.sparse.store import Store
from frontrunner.tasks.causal_lm import per_objective

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HEADS = {
    **IDS,
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
FULL = {**HEADS, "intermediate_size": 48}
LLAMA = {**FULL, "num_key_value_heads": 2}
GPT = {**IDS, "vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
GEMMA = {**LLAMA, "head_dim": 8, "sliding_window": 5}
LOCAL = ["sliding_attention", "full_attention", "sliding_attention"]

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATED = (QKV, ("self_attn.o_proj",), ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))
FUSED = (
    ("self_attention.query_key_value",),
    ("self_attention.dense",),
    ("mlp.dense_h_to_4h",),
    ("mlp.dense_4h_to_h",),
)
GPT2 = (("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",))
PARALLEL = (FUSED[0] + FUSED[2], FUSED[1], FUSED[3])
NEOX = tuple((path[0].replace("self_attention", "attention"),) for path in FUSED)
OPT = (QKV, ("self_attn.out_proj",), ("fc1",), ("fc2",))

# Name of a case: model type, configuration, and the layers that are called with one tensor.
DECODERS: dict[str, tuple[str, dict[str, Any], tuple[tuple[str, ...], ...]]] = {
    "llama": ("llama", LLAMA, GATED),
    "mistral": ("mistral", {**LLAMA, "sliding_window": 5}, GATED),
    "qwen2": (
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
        GATED,
    ),
    "qwen3": ("qwen3", {**LLAMA, "head_dim": 8}, GATED),
    "opt": ("opt", {**HEADS, "ffn_dim": 48, "word_embed_proj_dim": 16}, OPT),
    "gpt2": ("gpt2", GPT, GPT2),
    "gpt_neox": ("gpt_neox", FULL, NEOX),
    "gptj": (
        "gptj",
        {**GPT, "rotary_dim": 4},
        (
            ("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc_in"),
            ("attn.out_proj",),
            ("mlp.fc_out",),
        ),
    ),
    "phi": ("phi", LLAMA, ((*QKV, "mlp.fc1"), ("self_attn.dense",), ("mlp.fc2",))),
    "phi3": (
        "phi3",
        LLAMA,
        (("self_attn.qkv_proj",), ("self_attn.o_proj",), ("mlp.gate_up_proj",), ("mlp.down_proj",)),
    ),
    "gemma2": ("gemma2", GEMMA, GATED),
    "gemma3": ("gemma3_text", {**GEMMA, "layer_types": LOCAL}, GATED),
    "falcon": ("falcon", HEADS, PARALLEL),
    "falcon, alibi": ("falcon", {**HEADS, "alibi": True}, PARALLEL),
    "falcon, new": (
        "falcon",
        {**HEADS, "new_decoder_architecture": True, "num_kv_heads": 2},
        FUSED,
    ),
    "stablelm": ("stablelm", LLAMA, GATED),
    "bloom": ("bloom", {**HEADS, "n_layer": 3, "n_head": 4}, FUSED),
    "olmo2": ("olmo2", LLAMA, GATED),
    "smollm3": ("smollm3", {**LLAMA, "no_rope_layers": [1, 0, 1]}, GATED),
    "cohere": ("cohere", LLAMA, (QKV + GATED[2], GATED[1], GATED[3])),
    "cohere2": (
        "cohere2",
        {**LLAMA, "sliding_window": 5, "layer_types": LOCAL},
        (QKV + GATED[2], GATED[1], GATED[3]),
    ),
}


def network_of(kind: str, options: dict[str, Any]) -> nn.Module:
    """A network with random weights; biases and norms are no longer 0 and 1."""
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        configuration = transformers.AutoConfig.for_model(kind, **options)
        network = transformers.AutoModelForCausalLM.from_config(configuration)
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return per_objective(network).eval()


@pytest.fixture(scope="module")
def made() -> dict[str, nn.Module]:
    return {}


@pytest.fixture(params=list(DECODERS))
def case(request, made) -> tuple[nn.Module, tuple[tuple[str, ...], ...]]:
    kind, options, groups = DECODERS[request.param]
    if request.param not in made:
        made[request.param] = network_of(kind, options)
    return made[request.param], groups


def segments() -> list[Tensor]:
    """Of two objectives: 5 and 3 segments of 12 tokens."""
    stream = torch.Generator().manual_seed(1)
    return [torch.randint(3, 64, (n, 12), generator=stream) for n in (5, 3)]


@torch.no_grad()
def plain(network: nn.Module, module: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of a module in an ordinary pass through the network."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, given: Any, named: Any, out: Any) -> None:
        seen.append(
            (
                given[0] if given else named["hidden_states"],
                out[0] if isinstance(out, tuple) else out,
            )
        )

    handle = module.register_forward_hook(note, with_kwargs=True)
    network(batch)
    handle.remove()
    (result,) = seen
    return result


def test_blocks_one_by_one_are_the_network(case) -> None:
    network, _ = case
    decoder = Decoder(network)
    # The last batch is smaller, as it is where segments are not a multiple.
    batches = list(segments()[0].split(2))
    with torch.no_grad():
        hidden, calls = decoder.start(batches)
        for x, row, batch in zip(hidden, calls, batches, strict=True):
            for block, call in zip(decoder.blocks, row, strict=True):
                given, expected = plain(network, block, batch)
                assert torch.equal(x, given)
                x = call(block, x)
                assert torch.equal(x, expected)


def test_every_linear_layer_is_found_with_those_that_share_its_input(case) -> None:
    network, expected = case
    decoder = Decoder(network)
    assert len(decoder) == 3
    inside = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if name.startswith(decoder.name)
        and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
    }
    assert set(decoder.shapes()) == inside
    assert inside <= set(dict(network.named_parameters()))
    hidden, calls = decoder.start([segments()[0]])
    for b in range(len(decoder)):
        groups = decoder.groups(b, hidden[0], calls[0][b])
        assert [tuple(layer.path for layer in group) for group in groups] == list(expected)


def prune(
    network: nn.Module,
    folder: Path,
    devices: Sequence[str] = ("cpu",),
    method: Pruner | None = None,
) -> Store:
    """At 60 % on both objectives, with ALPS if no method is given."""
    decoder, store = Decoder(network), Store(folder)
    method = method or ALPS(points=3, sparsity=0.6, limit=20, refinement=2, batch=2)
    patterns = method.patterns(decoder.shapes())
    blockwise = Blockwise(decoder, patterns, segments(), Devices(devices), store, batch=2)
    method.go(blockwise, method.anchors(2))
    return store


@torch.no_grad()
def test_pruned_blocks_are_exactly_sparse_and_each_saw_those_before_it(case, tmp_path) -> None:
    network, _ = case
    decoder = Decoder(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    store = prune(network, tmp_path)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    try:
        for b, stored in enumerate(store.blocks):
            # An ordinary pass, with this block dense and those before it pruned: its inputs are
            # what the Gram matrices say.
            layers = {layer.name: layer for layer in decoder.layers[b]}
            for described in stored.layers:
                layer = layers[described.name]
                if described.group + ".weight" != layer.name:
                    continue
                module = layer.module(decoder.blocks[b])
                for objective, ids in enumerate(segments()):
                    x = torch.cat([_input(network, module, part) for part in ids.split(2)])
                    diagonals = stored.diagonals(described.group)
                    expected = x.flatten(0, -2).square().sum(0)
                    torch.testing.assert_close(diagonals[objective], expected, rtol=1e-4, atol=1e-5)
            for described in stored.layers:
                layer, weight = layers[described.name], stored.weight(described, 0)
                assert weight.shape == layer.shape(decoder.blocks[b])
                zeros = round(0.6 * weight.numel())
                assert int((weight == 0).sum()) == zeros
                layer.weight(decoder.blocks[b]).copy_(weight)
                own = network.get_parameter(described.name)
                assert int((own == 0).sum()) == zeros
        assert network(segments()[0]).isfinite().all()
    finally:
        network.load_state_dict(before)


def _input(network: nn.Module, module: nn.Module, batch: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(batch)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_two_devices_give_what_one_gives(name, tmp_path) -> None:
    network = network_of(*DECODERS[name][:2])
    # ADMM on so little data makes much of rounding; Wanda's scores do not.
    stores = [
        prune(network, tmp_path / str(i), devices, Wanda(points=3, sparsity=0.6, batch=2))
        for i, devices in enumerate((["cpu"], ["cpu", "cpu"]))
    ]
    for one, two in zip(*(store.blocks for store in stores), strict=True):
        for layer in one.layers:
            diagonals = [block.diagonals(layer.group) for block in (one, two)]
            torch.testing.assert_close(diagonals[0], diagonals[1], rtol=1e-3, atol=1e-5)
            same = one.weight(layer, 0) == two.weight(layer, 0)
            assert same.double().mean() > 0.99


def test_two_devices_give_the_same_every_time(tmp_path) -> None:
    network = network_of(*DECODERS["gpt2"][:2])
    stores = [prune(network, tmp_path / str(i), ["cpu", "cpu"]) for i in range(2)]
    for one, again in zip(*(store.blocks for store in stores), strict=True):
        assert all(torch.equal(one.weight(x, 0), again.weight(x, 0)) for x in one.layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # the second has equal weights
def test_magnitude_pruning_calls_no_block(dtype, tmp_path) -> None:
    network = network_of(*DECODERS["gpt2"][:2]).to(dtype)
    decoder, store = Decoder(network), Store(tmp_path)
    method = Magnitude(points=3, sparsity=0.5)
    patterns = method.patterns(decoder.shapes())
    blockwise = Blockwise(decoder, patterns, [], Devices(["cpu"]), store)
    method.go(blockwise, method.anchors(2))
    assert blockwise.passes == 0
    for stored in store.blocks:
        for layer in stored.layers:
            weight, dense = stored.weight(layer, 0), network.get_parameter(layer.name).mT
            kept = weight != 0
            assert kept.sum() == kept.numel() // 2
            assert torch.equal(weight[kept], dense[kept])
            assert dense[kept].abs().min() >= dense[~kept].abs().max()


# ---------------------------------------------------------------------- refused

MOE = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
EXPERTS = {
    "mixtral": {**LLAMA, "num_local_experts": 4},
    "qwen2_moe": {**LLAMA, **MOE, "num_experts": 4, "shared_expert_intermediate_size": 16},
    "deepseek_v2": {**LLAMA, **MOE, "n_routed_experts": 4, "first_k_dense_replace": 1},
    "olmoe": {**LLAMA, "num_experts": 4},
}


@pytest.mark.parametrize("kind", list(EXPERTS))
def test_mixtures_of_experts_are_refused(kind) -> None:
    with pytest.raises(
        ConfigError, match=r"model\.layers\.\d\.mlp\.experts holds .* mixture of experts"
    ):
        Decoder(network_of(kind, EXPERTS[kind]))


class Listed(nn.Module):
    """Blocks with what their experts are in other libraries: a list."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(4, 4) for _ in range(2))})
            for _ in range(3)
        )


class Tied(nn.Module):
    """One block, called three times."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Linear(4, 4))
        self.blocks = nn.ModuleList([block] * 3)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 4)
        self.head = nn.Linear(4, 9)


class Skipping(nn.Module):
    """The larger list is for pictures, and text does not reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 4)
        self.pictures = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.text = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.text:
            x = block(x)
        return x


def test_blocks_that_text_does_not_reach_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 of the 3 blocks of pictures are called"):
        Decoder(Skipping()).start(segments())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Listed, "blocks.0.experts holds a stack of layers"),
        (Tied, "blocks.1.0.weight is tied to blocks.0.0.weight"),
        (Recurrent, "Recurrent has no list of blocks with linear layers"),
    ],
)
def test_what_cannot_be_pruned_is_named(network, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Decoder(network())


def test_a_layer_that_is_not_called_as_a_module_is_named(tmp_path) -> None:
    options = {**IDS, "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    with pytest.raises(ConfigError, match=r"backbone\.layers\.0\.mixer\.dt_proj\.weight is called"):
        prune(network_of("mamba", options), tmp_path)
