"""Finding checkpoints by name, and handing folders to the hub; the hub itself is never asked."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from frontrunner.errors import DataError, RunError
from frontrunner.weights import hub
from frontrunner.weights.files import Safetensors

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model" / "model.safetensors")
    return tmp_path / "model"


def test_a_folder_or_a_file_here_is_taken_as_it_is(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert hub.locate("model").samefile(folder)
    assert hub.locate(folder / "model.safetensors") == folder / "model.safetensors"


@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_a_hub_name_is_fetched_without_pickles_and_subfolders(revision, folder, monkeypatch):
    asked = {}

    def download(repository, **options):
        asked.update(options, repository=repository)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    name = "some-one/a.model" + (f"@{revision}" if revision else "")
    weights = hub.open_weights(name)
    assert (weights.name, weights.folder) == (name, folder)
    assert (asked["repository"], asked["revision"]) == ("some-one/a.model", revision)
    wanted = ["model.safetensors", "config.json", "tokenizer.model", "merges.txt", "chat.jinja"]
    unwanted = ["pytorch_model.bin", "onnx/config.json", "original/consolidated.safetensors"]
    taken = huggingface_hub.utils.filter_repo_objects(
        [*wanted, *unwanted],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(taken) == wanted


def test_a_folder_in_the_hubs_cache_is_called_by_its_name_there(folder, tmp_path):
    cached = tmp_path / "models--some-one--a.model" / "snapshots" / "0123abc"
    cached.parent.mkdir(parents=True)
    folder.rename(cached)
    assert hub.open_weights(cached).name == "some-one/a.model@0123abc"


def test_what_is_neither_here_nor_fetched_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="'runs/expert' is neither a file or folder here") as caught:
        hub.locate("runs/expert")
    assert "HF_HUB_OFFLINE" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "a/b/c", "~/not here", "../x"])
def test_what_cannot_be_a_hub_name_is_not_looked_for_there(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(DataError, match="does not exist"):
        hub.locate(name)


def test_an_adapter_needs_a_base(folder, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 1, "lora_alpha": 2}))
    factors = {"lora_A.weight": torch.ones(1, 2), "lora_B.weight": torch.ones(2, 1)}
    save_file(
        {f"base_model.model.x.{k}": t for k, t in factors.items()},
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(DataError, match=r"is an adapter.*needs a base"):
        hub.open_weights(adapter)
    save_file({"x.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    opened = hub.open_weights(adapter, Safetensors(folder, "model"))
    assert opened.read("x.weight").tolist() == [[3, 3], [3, 3]]


# ---------------------------------------------------------------------- pushing


class Api:
    calls: list = []  # noqa: RUF012 - one for each test, see the fixture

    def create_repo(self, repository, **options):
        self.calls.append(("create", repository, options))

    def upload_folder(self, **options):
        self.calls.append(("upload", options["repo_id"], options))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Api, "calls", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


def test_a_pushed_folder_goes_to_a_private_repository(api, folder):
    assert hub.push(folder, "me/merged").endswith("/me/merged")
    (create, made, options), (upload, filled, sent) = api.calls
    assert (create, made, upload, filled) == ("create", "me/merged", "upload", "me/merged")
    assert options["private"] is True
    assert sent["folder_path"] == folder


def test_a_push_that_fails_says_that_the_folder_is_whole(api, folder, monkeypatch):
    def refuse(self, **options):
        raise RuntimeError("403 Forbidden\nmore")

    monkeypatch.setattr(api, "upload_folder", refuse)
    with pytest.raises(RunError, match=r"is whole, but was not uploaded to 'me/x': 403 Forbidden$"):
        hub.push(folder, "me/x")
