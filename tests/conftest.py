"""Shared by all tests: no network, one thread, and configurations that run in under a second."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Before NumPy and torch are imported, which read them once; child processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"

QUIET = ("logger=none", "runner.progress=none", "runner.threads=1", "runner.accelerator=cpu")
TINY = (
    "task=multi_digits",
    "task.sizes=[200,50,50]",
    "training.steps=20",
    "training.rounds=2",
    "training.batch_size=32",
    "points=3",
    *QUIET,
)


# Several processes share the files of tests (``make test``). These take longest, most of the time
# waiting for Slurm, for heartbeats and for processes: they come first, so that none is left when
# all the others are done.
LONG = (
    "sweeps/slurm/test_slurm.py",
    "sweeps/slurm/test_sweep.py",
    "sweeps/slurm/test_scripts.py",
    "sweeps/",
    "runner/",
    "tables/test_every_table.py",
    "evaluators/test_lm_eval.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are CPUs, since one waits, and not more than there are long files."""
    return min(len(os.sched_getaffinity(0)) + 1, 9)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first where several processes share them; whoever runs one file sees its order."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(HERE).as_posix()
        return next((i for i, start in enumerate(LONG) if path.startswith(start)), len(LONG))

    if hasattr(config, "workerinput"):
        items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def hub_dataset() -> Callable[[Path, str, dict[str, list[dict[str, str]]]], Path]:
    """``hub_dataset(folder, configuration, {split: rows})``: a data set in the hub's format,
    compressed JSON lines and a card that names them."""

    def write(folder: Path, name: str, splits: dict[str, list[dict[str, str]]]) -> Path:
        card = ["---", "configs:", f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            path = folder / name / f"{split}.json.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
            card += [f"  - split: {split}", f"    path: {name}/{split}.json.gz"]
        (folder / "README.md").write_text("\n".join([*card, "---", ""]))
        return folder

    return write


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """``script("quote")``: a program of scripts/, as a module."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, HERE.parent / "scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def quiet() -> list[str]:
    """Overrides that keep a run on the CPU, silent and untracked."""
    return list(QUIET)


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides of a whole run that takes about half a second."""
    return list(TINY)


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of a child process that runs this source tree."""
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="session")
def command(environment) -> Iterator[Callable[..., int]]:
    """``command(words, cwd, moment=None)``: the command in a process of its own.

    Returns its exit code, or minus the signal that ended it. ``moment`` says where something
    befalls it, see `crashing.py`.
    """
    script = Path(__file__).with_name("crashing.py")
    server: Any = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )

    def run(words: list[str], cwd: Path, moment: tuple[str, str, int] | None = None) -> int:
        server.stdin.write(json.dumps({"words": words, "cwd": str(cwd), "moment": moment}) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait(timeout=20)


@pytest.fixture(scope="session")
def language_model() -> Callable[..., Path]:
    """``language_model(folder, kind, dtype, **settings)``: a small checkpoint with random weights.

    ``kind`` names a configuration of transformers, such as Llama or GPT2; the tokenizer's tokens
    are bytes.
    """

    def save(folder: Path, kind: str = "Llama", dtype: str = "float32", **settings: Any) -> Path:
        import torch
        import transformers
        from tokenizers import Tokenizer, models, pre_tokenizers

        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(vocab_size=256, **settings)
        model = transformers.AutoModelForCausalLM.from_config(config)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({x: i for i, x in enumerate(letters)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def small_llama(language_model, tmp_path_factory) -> Path:
    """The folder of a Llama with three blocks, 16 wide."""
    return language_model(
        tmp_path_factory.mktemp("model") / "llama",
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
    )


@pytest.fixture(scope="session")
def pruning(tmp_path_factory) -> Callable[..., list[str]]:
    """``pruning(folder, *more)``: overrides of a run that prunes a model, for two kinds of text."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "words.txt").write_text("".join(f"word {i % 7} of {i}\n" for i in range(900)))
    (folder / "sums.txt").write_text("".join(f"{i} + {i % 9} = {i + i % 9}\n" for i in range(100)))
    texts = f"task.texts={{words:{folder / 'words.txt'},sums:{folder / 'sums.txt'}}}"
    sizes = "task.windows={train:4,validation:2,test:2}"
    small = ("task.window=16", "task.segments=8", "points=3", sizes, texts)

    def overrides(model: Path, *more: str) -> list[str]:
        chosen = ("task=text_domains", "model=hf", f"model.name={model}")
        return [*chosen, *small, *QUIET, *more]

    return overrides
