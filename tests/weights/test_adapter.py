"""LoRA adapters: as peft merges them, and written so that peft loads them."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from frontrunner.errors import DataError
from frontrunner.weights.adapter import CONFIG, FILE, Adapter, save_adapter
from frontrunner.weights.files import Safetensors
from frontrunner.weights.source import InMemory

PREFIX = "base_model.model."


def base(dtype: torch.dtype = torch.float32) -> InMemory:
    stream = torch.Generator().manual_seed(0)
    shapes = {"m.q.weight": (6, 4), "m.q.bias": (6,), "m.k.weight": (4, 4), "m.c.weight": (3, 2, 2)}
    return InMemory(
        "the base", {k: torch.randn(s, generator=stream).to(dtype) for k, s in shapes.items()}
    )


def adapter(folder, tensors: dict[str, torch.Tensor], **config):
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, **config}))
    save_file({PREFIX + k: t.contiguous() for k, t in tensors.items()}, folder / FILE)
    return folder


def factors(name: str, out: int, inner: int, r: int = 2) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(len(name))
    return {
        f"{name}.lora_A.weight": torch.randn(r, inner, generator=stream),
        f"{name}.lora_B.weight": torch.randn(out, r, generator=stream),
    }


# ---------------------------------------------------------------------- the formula


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 6}, 3.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 2**0.5),
        ({"lora_alpha": 6, "alpha_pattern": {"k": 8, "other.q": 1, "q": 4}}, 2.0),
    ],
)
def test_a_change_is_scale_times_b_a(config, scale, dtype, tmp_path):
    tensors = factors("m.q", 6, 4)
    below = base(dtype)
    above = Adapter(adapter(tmp_path, tensors, **config), below)
    product = tensors["m.q.lora_B.weight"].double() @ tensors["m.q.lora_A.weight"].double()
    expected = below.read("m.q.weight").double() + scale * product
    found = above.read("m.q.weight")
    assert found.dtype == above.dtype("m.q.weight") == dtype
    tolerance = torch.finfo(dtype).eps * 20 if dtype != torch.float64 else 1e-6
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    for key in ("m.q.bias", "m.k.weight", "m.c.weight"):
        assert torch.equal(above.read(key), below.read(key))
    assert dict(above.shapes()) == dict(below.shapes())


def test_a_square_weight_stored_the_other_way_gets_the_transposed_change(tmp_path):
    tensors = factors("m.k", 4, 4)
    product = tensors["m.k.lora_B.weight"] @ tensors["m.k.lora_A.weight"]
    for flag, expected in ((False, product), (True, product.T)):
        folder = adapter(tmp_path / str(flag), tensors, lora_alpha=2, fan_in_fan_out=flag)
        change = Adapter(folder, base()).read("m.k.weight") - base().read("m.k.weight")
        torch.testing.assert_close(change, expected)


def test_a_checkpoint_may_be_of_the_model_inside_or_outside(tmp_path):
    plain = Adapter(adapter(tmp_path / "a", factors("m.q", 6, 4)), base()).read("m.q.weight")
    for name in ("q", "outer.m.q"):
        tensors = {k.replace("m.q", name): t for k, t in factors("m.q", 6, 4).items()}
        above = Adapter(adapter(tmp_path / name, tensors), base())
        assert torch.equal(above.read("m.q.weight"), plain)


def test_whole_tensors_are_replaced_in_the_dtype_of_the_base(tmp_path):
    bias = torch.arange(6.0)
    tensors = {**factors("m.k", 4, 4), "m.q.base_layer.bias": bias, "m.q.weight": torch.ones(6, 4)}
    above = Adapter(adapter(tmp_path, tensors), base(torch.bfloat16))
    assert torch.equal(above.read("m.q.bias"), bias.bfloat16())
    assert torch.equal(above.read("m.q.weight"), torch.ones(6, 4).bfloat16())


def test_the_digest_follows_base_factors_and_scale(tmp_path):
    digests = [Adapter(adapter(tmp_path, factors("m.q", 6, 4)), base()).digest()]
    digests.append(Adapter(tmp_path, base(torch.float64)).digest())
    adapter(tmp_path, factors("m.q", 6, 4), lora_alpha=3)
    digests.append(Adapter(tmp_path, base()).digest())
    changed = factors("m.q", 6, 4)
    changed["m.q.lora_B.weight"][0, 0] += 1
    digests.append(Adapter(adapter(tmp_path, changed), base()).digest())
    assert len(set(digests)) == 4
    assert Adapter(tmp_path, base()).digest() == digests[-1]


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (factors("m.v", 6, 4), {}, r"adapter of another base: it changes 'm\.v\.weight'"),
        (factors("m.q", 6, 5), {}, r"its change of 'm\.q\.weight' is 6 × 5, and the base has \(6"),
        (factors("lm_head", 6, 4), {}, "tied to the embedding"),
        ({"m.q.lora_A.weight": torch.ones(2, 4)}, {}, r"has lora_A of 'm\.q' and no lora_B"),
        ({"m.q.bias": torch.ones(6)}, {}, "has no lora_A and lora_B tensors"),
        ({"m.q.lora_magnitude_vector": torch.ones(6)}, {}, "'.*m.q.lora_magnitude_vector', which"),
        (factors("m.q", 6, 4), {"use_dora": True}, r"adapter_config\.json: use_dora is not supp"),
        (factors("m.q", 6, 4), {"layer_replication": [[0, 2]]}, "layer_replication is not"),
        (factors("m.q", 6, 4), {"init_lora_weights": "pissa"}, "'pissa' changes the base"),
        (factors("m.q", 6, 4), {"peft_type": "IA3"}, "peft_type IA3 is not supported"),
    ],
)
def test_what_is_not_an_adapter_of_this_base_is_refused(tensors, config, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        Adapter(adapter(tmp_path, tensors, **config), base())
    assert "\n" not in str(caught.value)


def test_factors_of_different_ranks_are_refused(tmp_path):
    tensors = factors("m.q", 6, 4)
    tensors["m.q.lora_B.weight"] = torch.ones(6, 3)
    with pytest.raises(DataError, match=r"\(2, 4\) and lora_B \(6, 3\) of 'm\.q' differ in r"):
        Adapter(adapter(tmp_path, tensors), base())


def test_damaged_and_pickled_adapters_are_refused_by_file(tmp_path):
    folder = adapter(tmp_path, factors("m.q", 6, 4))
    os.truncate(folder / FILE, (folder / FILE).stat().st_size - 4)
    with pytest.raises(DataError, match=rf"{FILE} ends before '.*m\.q\.lora_B\.weight'"):
        Adapter(folder, base())
    (folder / FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(DataError, match=f"no {FILE}; pickled adapters are not opened"):
        Adapter(folder, base())
    (folder / CONFIG).write_text("{")
    with pytest.raises(DataError, match=rf"{CONFIG} is not readable as JSON"):
        Adapter(folder, base())


@pytest.mark.parametrize(("said", "warned"), [("some/other", True), ("hub/the base", False)])
def test_another_name_of_the_base_is_only_a_warning(said, warned, tmp_path, recwarn):
    Adapter(adapter(tmp_path, factors("m.q", 6, 4), base_model_name_or_path=said), base())
    assert any("'some/other'" in str(w.message) for w in recwarn) == warned


# ---------------------------------------------------------------------- written


def test_written_factors_read_back_as_their_product(tmp_path):
    stream = torch.Generator().manual_seed(3)
    changes = {"m.q": (6, 4, 3), "m.k": (4, 4, 1)}
    given = [
        (f"{name}.weight", torch.randn(o, r, generator=stream), torch.randn(r, i, generator=stream))
        for name, (o, i, r) in changes.items()
    ]
    save_adapter(tmp_path, [*given, ("m.x", torch.ones(5, 0), torch.ones(0, 5))], "the base")
    above = Adapter(tmp_path, base())
    assert set(above.updates) == {"m.q.weight", "m.k.weight"}
    for name, left, right in given:
        torch.testing.assert_close(above.read(name) - base().read(name), left @ right)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("q", torch.ones(3, 2), torch.ones(1, 3))], "of 'q' do not multiply"),
        ([("q", torch.ones(3, 1), torch.ones(1, 3))] * 2, "'q' is given twice"),
        ([("q", torch.ones(3, 0), torch.ones(0, 3))], "no layer of rank above 0"),
    ],
)
def test_factors_that_make_no_adapter_are_refused(given, message, tmp_path):
    with pytest.raises(DataError, match=message):
        save_adapter(tmp_path, given, "the base")


# ---------------------------------------------------------------------- against peft


def llama(folder, dtype=torch.float32):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(folder)
    return model


def gpt2(folder, dtype=torch.float32):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=32,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = GPT2LMHeadModel(config).to(dtype)
    model.save_pretrained(folder)
    return model


OPTIONS = {
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {"down_proj": 6},
        "alpha_pattern": {r"layers\.1\.self_attn\.v_proj": 3},
    },
    "rslora": {"target_modules": "all-linear", "use_rslora": True},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "conv1d": {"target_modules": ["c_attn", "c_proj"], "bias": "lora_only"},
    "bias": {"target_modules": ["c_attn", "wte"], "bias": "all"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", OPTIONS)
def test_it_reads_what_peft_merges(kind, dtype, tmp_path):
    peft = pytest.importorskip("peft")
    make = gpt2 if kind in ("conv1d", "bias") else llama
    model = make(tmp_path / "base", dtype)
    trained = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, **OPTIONS[kind]))
    torch.manual_seed(1)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.1)
    trained.save_pretrained(tmp_path / "adapter")
    model = type(model).from_pretrained(tmp_path / "base", dtype=dtype)
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    expected = merged.state_dict()

    below = Safetensors(tmp_path / "base")
    above = Adapter(tmp_path / "adapter", below)
    changed = 0
    # peft rounds the product to bfloat16 before it adds it; here the sum alone is rounded.
    close = {"rtol": 0, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 2e-3}
    for key in above.shapes():
        torch.testing.assert_close(above.read(key), expected[key], **close)
        changed += not torch.equal(above.read(key), below.read(key))
    assert changed == len(above.updates) + len([k for k in above.replaced if k in expected]) - (
        len(set(above.updates) & set(above.replaced))
    )


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)


@pytest.mark.filterwarnings("ignore")
def test_convolutions_are_read_and_written_as_peft_does(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    below = InMemory("the base", Convolutions().state_dict())

    def merged(folder):
        fresh = Convolutions()
        fresh.load_state_dict(below.tensors)
        return peft.PeftModel.from_pretrained(fresh, folder).merge_and_unload().state_dict()

    # Without their initialisation the factors B are not 0.
    options = peft.LoraConfig(r=2, target_modules=["wide", "narrow"], init_lora_weights=False)
    peft.get_peft_model(Convolutions(), options).save_pretrained(tmp_path / "read")
    left, right = torch.randn(8, 2), torch.randn(2, 3, 3, 3)
    (tmp_path / "written").mkdir()
    save_adapter(tmp_path / "written", [("wide", left, right)], "the base")
    for name in ("read", "written"):
        above = Adapter(tmp_path / name, below)
        for key, expected in merged(tmp_path / name).items():
            torch.testing.assert_close(above.read(key), expected)
    change = above.read("wide.weight") - below.read("wide.weight")
    torch.testing.assert_close(change, (left @ right.flatten(1)).view(8, 3, 3, 3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [llama, gpt2])
def test_peft_loads_what_is_written(make, tmp_path):
    peft = pytest.importorskip("peft")
    model = make(tmp_path / "base")
    weights = Safetensors(tmp_path / "base")
    chosen = [k for k in weights.shapes() if k.endswith(("q_proj.weight", "c_attn.weight"))]
    chosen += [k for k in weights.shapes() if k.endswith(("down_proj.weight", "mlp.c_proj.weight"))]
    stream = torch.Generator().manual_seed(0)
    given = []
    for i, key in enumerate(chosen):
        out, inner = weights.shapes()[key]
        left = torch.randn(out, i + 1, generator=stream)
        given.append((key, left, torch.randn(i + 1, inner, generator=stream)))
    conv1d = make is gpt2
    save_adapter(
        tmp_path / "adapter",
        given,
        str(tmp_path / "base"),
        task_type="CAUSAL_LM",
        fan_in_fan_out=conv1d,
    )
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / FILE)
    assert len([n for n, _ in loaded.named_parameters() if "lora_" in n]) == len(stored)
    merged = loaded.merge_and_unload().state_dict()
    for key, left, right in given:
        torch.testing.assert_close(merged[key], weights.read(key) + left @ right)
    auto = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert auto.peft_config["default"].r in {1, 2, 3, 4}
