"""The way through the blocks: what a block is pruned with, and what is refused before the first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import frontrunner
from frontrunner import cli
from frontrunner.errors import ConfigError, DataError
from frontrunner.methods.pruning.blockwise import Blockwise, Devices, Stream, source
from frontrunner.models.blocks import Decoder
from frontrunner.sparse.patterns import Unstructured
from frontrunner.sparse.store import Models, Store
from frontrunner.tasks.causal_lm import load
from frontrunner.weights.source import InMemory

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def segments(count: int = 2) -> list[torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return [torch.randint(256, (6, 12), generator=stream) for _ in range(count)]


def halve(groups, devices) -> dict[str, Models]:
    """The larger half of each layer's weights, whatever the data."""
    found = {}
    for group in groups:
        for name, dense in group.dense.items():
            support, _ = group.patterns[name].select(dense.abs())
            found[name] = Models([dense * support], [support])
    return found


def prune(network: nn.Module, folder: Path, data: list[torch.Tensor], devices=("cpu",), **options):
    decoder = Decoder(network)
    patterns = dict.fromkeys(decoder.shapes(), Unstructured(0.5))
    store = Store(folder)
    blockwise = Blockwise(decoder, patterns, data, Devices(devices), store, batch=4, **options)
    blockwise.run(0, [0], [Stream(j) for j in range(len(data))], halve, keep_grams=True)
    return store, decoder


def seen_by(network: nn.Module, name: str, ids: torch.Tensor) -> torch.Tensor:
    """XᵀX of the inputs that a layer gets in a plain forward pass."""
    kept = []
    module = network.get_submodule(name)
    handle = module.register_forward_pre_hook(lambda m, inputs: kept.append(inputs[0].detach()))
    with torch.no_grad():
        network(ids)
    handle.remove()
    x = kept[0].flatten(0, -2)
    return x.mT @ x


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_gram_matrices_are_of_inputs_behind_pruned_blocks_and_a_dense_one(
    name, small_llama, tmp_path
):
    store, _ = prune(load(small_llama), tmp_path, segments())
    network = load(small_llama)
    for b, block in enumerate(store.blocks):
        group = next(x.group for x in block.layers if x.name.endswith(f"{name}.weight"))
        for j, ids in enumerate(segments()):
            expected = seen_by(network, f"model.layers.{b}.{name}", ids)
            torch.testing.assert_close(block.gram(group, j), expected, rtol=2e-5, atol=1e-4)
            diagonals = block.diagonals(group)
            torch.testing.assert_close(diagonals[j], block.gram(group, j).diagonal())
        state = network.state_dict()
        for layer in block.layers:  # the next block sees this one pruned
            state[layer.name].copy_(block.weight(layer, 0))


def test_layers_of_one_input_share_a_gram_matrix(small_llama, tmp_path):
    store, _ = prune(load(small_llama), tmp_path, segments())
    groups: dict[str, set[str]] = {}
    for layer in store.blocks[1].layers:
        groups.setdefault(layer.group, set()).add(layer.name.split(".")[-2])
    assert sorted(map(sorted, groups.values())) == [
        ["down_proj"], ["gate_proj", "up_proj"], ["k_proj", "q_proj", "v_proj"], ["o_proj"],
    ]  # fmt: skip


def test_the_network_is_left_dense(small_llama, tmp_path):
    network = load(small_llama)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    prune(network, tmp_path, segments())
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_several_devices_give_the_same_up_to_rounding(small_llama, tmp_path):
    one, _ = prune(load(small_llama), tmp_path / "one", segments())
    three, _ = prune(load(small_llama), tmp_path / "three", segments(), ["cpu"] * 3)
    for a, b in zip(one.blocks, three.blocks, strict=True):
        for layer in a.layers:
            assert torch.equal(a.weight(layer, 0), b.weight(layer, 0))
            torch.testing.assert_close(
                a.gram(layer.group, 1), b.gram(layer.group, 1), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize(("norm", "trace"), [("tokens", None), ("trace", 1.0)])
def test_gram_matrices_are_divided_as_asked(norm, trace, small_llama, tmp_path):
    plain, _ = prune(load(small_llama), tmp_path / "plain", segments(1))
    other, _ = prune(load(small_llama), tmp_path / "other", segments(1), norm=norm)
    group = plain.blocks[0].layers[0].group
    h = plain.blocks[0].gram(group, 0)
    by = 6 * 12 if trace is None else h.diagonal().mean() / trace
    torch.testing.assert_close(other.blocks[0].gram(group, 0), h / by)


def test_a_source_changes_with_the_model_and_with_the_text():
    model = InMemory("a", {"w": torch.zeros(2)})
    same = source(model, None, segments())
    assert same == source(InMemory("b", {"w": torch.zeros(2)}), None, segments())
    others = [
        source(InMemory("a", {"w": torch.ones(2)}), None, segments()),
        source(model, None, segments(1)),
        source(model, None, [s.view(12, 6) for s in segments()]),
    ]
    assert len({same, *others}) == 4


# ---------------------------------------------------------------------- refused


@pytest.fixture
def untouched(monkeypatch):
    """Fails where a block is pruned all the same."""

    def refuse(*arguments):
        raise AssertionError("a block was touched")

    monkeypatch.setattr(Blockwise, "_prune", refuse)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.sparsity=1.5"], r"a sparsity of 1\.5 must be above 0 and below 1"),
        (["method.sparsity=0"], "a sparsity of 0 must be above 0 and below 1"),
        (["method.pattern=4:4"], "pattern 4:4 .*needs 0 < N < M"),
        (["method.pattern=5:4"], "pattern 5:4 .*needs 0 < N < M"),
        (["method.pattern=half"], "pattern 'half' is neither unstructured nor N:M"),
        (["method.pattern=3:5"], r"model\.layers\.0.* has 16 inputs, which groups of 5"),
        (["method.allocation={*.nothing.weight:0.5}"], r"no layer is called '\*\.nothing"),
        (["method.allocation={*.up_proj.weight:2}"], "a sparsity of 2 must be"),
        (["method.allocation={*.up_proj.weight:3:5}"], r"up_proj.* has 16 inputs, which groups of"),
        (["method.sparsity=0.9999"], "keeps 0: nothing is left"),
        (["task.segment_length=2000"], "'sums' has .* fewer than one calibration segment of 2000"),
        (["task.window=2000"], "text of 'sums' has .* fewer than one window of 2000"),
    ],
)
def test_what_cannot_be_is_named_before_a_block_is_touched(
    words, message, pruning, small_llama, untouched, tmp_path
):
    all_words = pruning(small_llama, "method=pruning/mosp", f"output={tmp_path}", *words)
    with pytest.raises((ConfigError, DataError), match=message):
        frontrunner.run(all_words)


def spoil(folder: Path, name: str, value: float) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[3] = value
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("method", ["magnitude", "mosp"])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"])
def test_weights_that_are_not_finite_are_named(
    name, method, pruning, language_model, untouched, tmp_path
):
    folder = language_model(tmp_path / "model", **SIZES)
    spoil(folder, name, torch.nan)
    words = pruning(folder, f"method=pruning/{method}", f"output={tmp_path}")
    with pytest.raises(DataError, match=rf"'{name}' of the dense model holds NaN or infinity"):
        frontrunner.run(words)


def test_activations_that_overflow_are_named(pruning, language_model, tmp_path):
    folder = language_model(tmp_path / "model", **SIZES)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.input_layernorm.weight"] *= 3e38
    save_file(tensors, file, metadata={"format": "pt"})
    words = pruning(folder, "method=pruning/wanda", f"output={tmp_path}")
    with pytest.raises(DataError, match=r"Gram matrix of model\.layers\.0.*q_proj.* overflow"):
        frontrunner.run(words)


def test_a_singular_gram_matrix_is_named(pruning, small_llama, tmp_path):
    words = ["method=pruning/sparsegpt", "method.damping=0", f"output={tmp_path}"]
    few = ["task.segments=1", "task.segment_length=3"]
    with pytest.raises(DataError, match=r"model\.layers\.0.*is singular .*method\.damping"):
        frontrunner.run(pruning(small_llama, *words, *few))


def test_experts_are_refused_before_the_model_is_read(pruning, language_model, tmp_path, capsys):
    folder = language_model(
        tmp_path / "model", kind="Mixtral", num_local_experts=2, num_experts_per_tok=1, **SIZES
    )
    words = pruning(folder, "method=pruning/magnitude", f"output={tmp_path / 'runs'}")
    assert cli.main(["check", *words]) == 1
    assert "has 2 experts in a block (num_local_experts)" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"model\.layers\.0\.mlp.* mixture of experts"):
        Decoder(load(folder))


class Plain(nn.Module):
    """Blocks with what a test puts into them."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


def test_a_network_without_linear_layers_is_refused():
    with pytest.raises(ConfigError, match="no list of blocks with linear layers: nothing to prune"):
        Decoder(Plain(nn.LayerNorm(3), nn.LayerNorm(3)))


def test_tied_layers_are_refused():
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    network = Plain(block(), block())
    network.blocks[1][1].weight = network.blocks[0][0].weight
    with pytest.raises(ConfigError, match=r"blocks\.1\.1\.weight is tied to blocks\.0\.0\.weight"):
        Decoder(network)


def test_methods_and_tasks_that_do_not_go_together_are_named(tmp_path, small_llama, pruning, quiet):
    words = ["task=merge_digits", "method=pruning/magnitude", *quiet, f"output={tmp_path}"]
    with pytest.raises(ConfigError, match="task 'merge_digits' has no model to prune"):
        frontrunner.run(words)
    words = pruning(small_llama, "method=merging/task_arithmetic", f"output={tmp_path}")
    with pytest.raises(ConfigError, match="text_domains"):
        frontrunner.run(words)
    for method in ("merging/pareto_merging", "learning/cosmos"):  # a model that is given has none
        words = pruning(small_llama, f"method={method}", f"output={tmp_path}")
        with pytest.raises(ConfigError, match="training"):
            frontrunner.run(words)
