"""llm-compressor in an environment of its own. Run as a program by that environment's Python, this
file prunes a checkpoint by several recipes; imported, it finds or makes the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VERSIONS = {"torch": "2.13.0", "llmcompressor": "0.14.0.1"}


def environment() -> Path:
    """The Python of llm-compressor's virtual environment, which is made on first use (minutes).

    Kept in ``FRONTRUNNER_LLM_COMPRESSOR``, by default
    ``~/.cache/frontrunner/llm-compressor-<version>``. By hand: ``python -m venv <folder>``, then
    with its pip ``install torch==2.13.0`` and ``install torch==2.13.0 llmcompressor==0.14.0.1``.
    """
    kept = Path.home() / ".cache" / "frontrunner"
    default = kept / f"llm-compressor-{VERSIONS['llmcompressor']}"
    folder = Path(os.environ.get("FRONTRUNNER_LLM_COMPRESSOR", default))
    python = folder / "bin" / "python"
    if not list(folder.glob("lib/python*/site-packages/llmcompressor")):
        print(f"installing llm-compressor into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pins = [f"{name}=={version}" for name, version in VERSIONS.items()]
        for some in (pins[:1], pins):  # torch by itself first
            subprocess.run([python, "-m", "pip", "install", "-q", *some], check=True)
    return python


def prune(
    model: Path,
    segments: Sequence[Sequence[int]],
    recipes: Mapping[str, Mapping[str, Any]],
    work: Path,
) -> dict[str, Path]:
    """Files with all tensors of the pruned model, by the names of the recipes.

    Args:
        model: checkpoint folder.
        segments: token ids, all of one length, in the order they are run in.
        recipes: a modifier's class under ``class``, and its arguments.
        work: an empty folder.
    """
    request = {"model": str(model), "segments": segments, "recipes": recipes}
    (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HOME": str(work / "hf")}
    done = subprocess.run(
        [environment(), Path(__file__).resolve(), work], env=environ, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"llm-compressor: {done.stderr[-3000:]}")
    return {name: work / f"{name}.safetensors" for name in recipes}


def _main(work: Path) -> None:
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers import pruning
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    os.chdir(work)  # it leaves logs where it runs
    request = json.loads((work / "request.json").read_text(encoding="utf-8"))
    ids = request["segments"]
    mask = [[1] * len(segment) for segment in ids]
    for name, recipe in request["recipes"].items():
        options = dict(recipe)
        modifier = getattr(pruning, options.pop("class"))
        model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32)
        oneshot(
            model=model,
            dataset=Dataset.from_dict({"input_ids": ids, "attention_mask": mask}),
            num_calibration_samples=len(ids),
            max_seq_length=len(ids[0]),
            shuffle_calibration_samples=False,
            recipe=[modifier(targets=["Linear"], ignore=["re:.*lm_head"], **options)],
        )
        tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        save_file(tensors, work / f"{name}.safetensors")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
