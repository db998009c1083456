"""Where a named checkpoint is: a file or folder here, or a model on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from frontrunner.errors import ConfigError, DataError, RunError, first_line

if TYPE_CHECKING:
    from frontrunner.weights.source import Weights

# What a checkpoint needs beside its weights: configuration, tokenizer, processor, chat template.
WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "tokenizer*")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(@[\w./-]+)?")


def locate(name: str | Path) -> Path:
    """The local file or folder of a checkpoint, fetched from the hub where it is not one here.

    Args:
        name: a path, or a hub id, ``owner/model`` or ``owner/model@revision``. With
            ``HF_HUB_OFFLINE=1`` only what was fetched before is looked at.

    Raises:
        DataError: neither is found; the message says what was looked for.
        ConfigError: huggingface_hub is not installed.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if isinstance(name, Path) or not _HUB_ID.fullmatch(name):
        raise DataError(f"{name} does not exist, and is not the name of a model on the hub")
    try:
        import huggingface_hub as hub
    except ImportError:
        raise ConfigError(
            f"{name} is not a folder here; for models of the hub: pip install frontrunner[hub]"
        ) from None
    repository, _, revision = name.partition("@")
    try:
        # What lies in subfolders are copies in other formats.
        folder = hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(WANTED),
            ignore_patterns="*/*",
        )
    except Exception as error:
        if hub.constants.HF_HUB_OFFLINE:
            why = "nor among the models fetched before (HF_HUB_OFFLINE is set)"
        else:
            why = f"nor a model that the hub gives ({first_line(error)})"
        raise DataError(f"'{name}' is neither a file or folder here, {why}") from None
    return Path(folder)


def push(folder: Path, repository: str, private: bool = True) -> str:
    """Upload a folder to a repository of the hub; returns its address.

    A repository that does not exist is created, by default private; one that does keeps its
    visibility.

    Raises:
        ConfigError: huggingface_hub is not installed.
        RunError: the hub did not take it; the folder here is as it was.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        raise ConfigError("--push needs huggingface_hub: pip install frontrunner[hub]") from None
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload from frontrunner"
        )
    except Exception as error:
        raise RunError(
            f"{folder} is whole, but was not uploaded to '{repository}': {first_line(error)}"
        ) from None
    return f"{hub.constants.ENDPOINT}/{repository}"


def open_weights(name: str | Path, base: Weights | None = None) -> Weights:
    """The weights of a checkpoint, read lazily: safetensors, or a LoRA adapter of ``peft``.

    Args:
        name: see `locate`.
        base: what an adapter is an adapter of.

    Raises:
        DataError: not found, damaged or quantised, an adapter without a base, or an adapter of
            another base.
    """
    from frontrunner.weights.adapter import CONFIG, Adapter
    from frontrunner.weights.files import Safetensors

    path = locate(name)
    called = _hub_name(path) or str(name)
    if (path / CONFIG).is_file():
        if base is None:
            raise DataError(f"{called} is an adapter: it can be an expert, and needs a base")
        return Adapter(path, base, called)
    return Safetensors(path, called)


def _hub_name(path: Path) -> str | None:
    """``owner/model@revision`` of a folder in the hub's cache."""
    repository, snapshots, revision = ("", "", "", *path.parts)[-3:]
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return None
    return f"{repository.removeprefix('models--').replace('--', '/')}@{revision}"
