"""The small ViT: its shapes, its options, and that only its use needs transformers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from frontrunner import config
from frontrunner.errors import ConfigError
from frontrunner.models.vit import TinyViT
from frontrunner.run import run
from frontrunner.tasks.experts import Recipe, train


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRONTRUNNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_one_output_per_head_for_images_of_any_shape_that_patches_divide():
    network = TinyViT((3, 8, 12), (10, 4), patch=4, width=16, depth=1, heads=2)
    outputs = network(torch.randn(5, 3, 8, 12))
    assert [tuple(o.shape) for o in outputs] == [(5, 10), (5, 4)]
    assert network.vit.embeddings.position_embeddings.shape == (1, 1 + 2 * 3, 16)
    sum(o.sum() for o in outputs).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_patches_know_where_they_are():
    network = TinyViT((1, 8, 8), (10,), width=16, depth=1).eval()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(network(x)[0], network(x.flip(3))[0], atol=1e-4)


def test_it_learns_which_half_of_an_image_is_bright():
    stream = torch.Generator().manual_seed(0)
    x = 0.1 * torch.randn(200, 1, 8, 8, generator=stream)
    y = torch.randint(2, (200,), generator=stream)
    x[y == 0, :, :, :4] += 1.0
    x[y == 1, :, :, 4:] += 1.0

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = TinyViT((1, 8, 8), (2,), patch=4, width=16, depth=1, heads=2)

        def forward(self, inputs, k):
            return self.inner(inputs)[k]

    torch.manual_seed(0)
    network = One()
    train(network, [(x, y, 0)], Recipe(60, batch_size=32), 0)
    with torch.no_grad():
        assert (network(x, 0).argmax(-1) == y).float().mean() > 0.95


@pytest.mark.parametrize("heads", ["shared", "separate"])
def test_experts_of_it_are_merged_into_a_front(work, quiet, heads):
    small = ["model.network.width=16", "model.network.depth=1", "task.experts=2"]
    steps = ["task.base_steps=2", "task.expert_steps=2", f"task.heads={heads}", "points=3"]
    method = ["method=merging/task_arithmetic", "method.preferences=grid", "evaluator=accuracy"]
    done = run(["task=merge_digits", "model=small_vit", *small, *steps, *method, *quiet])
    assert done.front.values.shape == (3, 2)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((64,), {}, "takes images"),
        ((1, 8, 8), {"patch": 3}, "patch=3 must divide the 8×8 pixels"),
        ((1, 8, 8), {"width": 10, "heads": 4}, "heads must divide width"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, options, message):
    with pytest.raises(ConfigError, match=message):
        TinyViT(shape, (10,), **options)


def test_without_transformers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install frontrunner\[hub\]"):
        TinyViT((1, 8, 8), (10,))


def test_composing_other_models_does_not_import_transformers(environment):
    program = (
        "import sys\n"
        "import frontrunner.models.vit\n"
        "from frontrunner import config\n"
        "from frontrunner.run import build_task\n"
        "build_task(config.compose(['task=merge_digits', 'method=merging/average']))\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert "small_vit" in config.options("model")
