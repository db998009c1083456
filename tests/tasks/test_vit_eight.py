"""CLIP experts on image folders, proved on a small checkpoint in the hub's format made here."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from frontrunner import config
from frontrunner.errors import ConfigError, DataError
from frontrunner.run import build_task, check, load, run
from frontrunner.tasks.clip_images import FolderPictures, Pixels, Processor

Image = pytest.importorskip("PIL.Image")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TASKS = {"colours": ("blue", "green", "red"), "stripes": ("across", "down"), "sizes": ("1", "2")}
SIDE = 16


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRONTRUNNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def picture(task, label, rng):
    """A noisy picture of 20×24 pixels that shows its class."""
    pixels = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
    if task == "colours":
        pixels[..., 2 - label] += 150
    elif task == "stripes":
        lines = np.swapaxes(pixels, 0, label)
        lines[::4] += 150
    else:
        edge = 3 * (label + 1)
        pixels[edge:-edge, edge:-edge] += 150
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("clip"))


def make_world(root):
    """``data/<task>/<split>/<class>/*.png``, a CLIP model ``clip`` and an expert for each task."""
    rng = np.random.default_rng(0)
    for task, classes in TASKS.items():
        splits = {"train": 6, "test": 3} | ({"validation": 2} if task == "stripes" else {})
        for split, count in splits.items():
            for label, name in enumerate(classes):
                folder = root / "data" / task / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    picture(task, label, rng).save(folder / f"{i}.png")
    make_clip(root)
    return root


def make_clip(root):
    words = ["<pad>", "<s>", "</s>", "a", "photo", "of", "the"]
    words += [w for classes in TASKS.values() for w in classes]
    vocabulary = {w: i for i, w in enumerate([*words, "<unk>"])}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=16,
    ).save_pretrained(root / "clip")
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 8,
    }
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 16, **sizes}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {"image_size": SIDE, "patch_size": 4, **sizes}
    torch.manual_seed(0)
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    )
    clip.save_pretrained(root / "clip")
    shape = {"shortest_edge": SIDE}
    crop = {"height": SIDE, "width": SIDE}
    transformers.CLIPImageProcessorPil(size=shape, crop_size=crop).save_pretrained(root / "clip")
    for k, task in enumerate(TASKS):
        expert = transformers.CLIPVisionModel(clip.config.vision_config)
        expert.load_state_dict(clip.vision_model.state_dict())
        torch.manual_seed(k + 1)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        folder = root / f"expert_{task}"
        if k == 0:  # as the published ones are stored
            expert.save_pretrained(
                folder, state_dict={f"vision_model.{n}": t for n, t in expert.state_dict().items()}
            )
        else:  # as version 5 stores them
            expert.save_pretrained(folder)


def words(root, *more):
    datasets = ",".join(f"{task}:{{templates:['a photo of a {{}}','the {{}}']}}" for task in TASKS)
    return [
        "task=vit_eight",
        "method=merging/task_arithmetic",
        f"task.base={root}/clip",
        f"task.expert='{root}/expert_{{task}}'",
        f"task.tasks=[{','.join(TASKS)}]",
        f"task.data_root={root}/data",
        f"+task.datasets={{{datasets}}}",
        *more,
    ]


def build(root, *more):
    return build_task(config.compose(words(root, *more)))


def test_a_front_is_merged_evaluated_and_exported_as_a_vision_checkpoint(world, work, quiet):
    done = run(words(world, "evaluator=accuracy", "method.preferences=grid", "points=6", *quiet))
    assert [o.name for o in done.front.objectives] == list(TASKS)
    assert len(done.front.values) == 7  # the lattice of 6 and the centre
    assert load(done.directory).pareto_set.digest() == done.pareto_set.digest()

    preference = [0.5, 0.0, 0.5]
    done.export(preference, work / "merged")
    # The experts' folders have no processor: it is the base's.
    transformers.CLIPImageProcessorPil.from_pretrained(work / "merged")
    found = transformers.CLIPVisionModel.from_pretrained(work / "merged")
    wanted = done.pareto_set.materialize(preference).vision_model.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    for key, tensor in found.state_dict().items():
        torch.testing.assert_close(tensor, wanted[key], rtol=0, atol=0, msg=key)


def test_logits_are_those_of_the_whole_clip_model_on_the_same_prompt(world):
    task = build(world, "task.datasets.colours.templates=['a photo of a {}']")
    batch = task.data("test").parts[0][[0, 4, 8]]
    with torch.no_grad():
        ours = task.network().eval()(batch[0], 0)
    clip = transformers.CLIPModel.from_pretrained(world / "clip").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "clip")
    prompts = [f"a photo of a {name}" for name in TASKS["colours"]]
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = clip(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=batch[0],
        ).logits_per_image
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_pixels_are_those_of_the_checkpoints_own_processor_and_are_decoded_once(world, monkeypatch):
    pictures = FolderPictures(world / "data" / "sizes" / "train")
    pixels = Pixels(pictures, [3, 0, 7], Processor(world / "clip"))
    x, y = pixels[[2, 0]]
    assert y.tolist() == [1, 0]
    processor = transformers.CLIPImageProcessorPil.from_pretrained(world / "clip")
    wanted = processor([pictures.picture(7), pictures.picture(3)], return_tensors="pt")
    torch.testing.assert_close(x, wanted["pixel_values"], rtol=1e-5, atol=1e-5)

    monkeypatch.setattr(FolderPictures, "picture", None)  # decoding again would fail
    again = Pixels(pictures, [3, 0, 7], Processor(world / "clip"))
    assert torch.equal(again[[2, 0]][0], x)


def test_splits_share_no_picture_and_validation_is_held_out_only_where_it_is_missing(world):
    task = build(world)
    for name, splits in zip(TASKS, task.sources(), strict=True):
        paths = {
            split: {pictures.paths[i] for i in rows} for split, (pictures, rows) in splits.items()
        }
        assert not paths["train"] & paths["validation"]
        assert {p.parts[-3] for p in paths["test"]} == {"test"}
        held = {p.parts[-3] for p in paths["validation"]}
        assert held == ({"validation"} if name == "stripes" else {"train"})
    assert [len(p) for p in build(world, "task.limit=4").data("train").parts] == [4, 4, 4]


def test_prompts_use_the_datas_names_or_the_configured_ones_by_position(world):
    task = build(world, "+task.datasets.sizes.classes=[one,two]", "task.tasks=[sizes,colours]")
    assert task.class_names() == [["one", "two"], ["blue", "green", "red"]]
    assert [o.name for o in task.objectives] == ["sizes", "colours"]


def test_classes_that_are_numbers_are_in_the_order_of_their_value(tmp_path):
    for name in ("0", "2", "10"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    assert FolderPictures(tmp_path).classes == ["0", "2", "10"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["task.data_root=nowhere"], "task.data_root=nowhere does not exist"),
        (["task.tasks=[colours,sizs]"], "'sizs' is not among task.datasets; did you mean 'sizes'"),
        (["task.tasks=[colours]"], "at least two"),
        (["task.limit=0"], "task.limit=0"),
        (["+task.datasets.sizes.classes=[one]"], "has 1 names, and .*sizes/train has 2 classes"),
        (["task.datasets.sizes.templates=[photo]"], "sizes.templates must hold prompts"),
        (["+task.datasets.sizes.kind=x"], "unknown key 'task.datasets.sizes.kind'"),
        (["task.data_root=null"], "give task.data_root, or task.datasets.colours.hub"),
        (["task.experts={colours: nobody/nothing}"], "'nobody/nothing' is neither"),
        (["task.base=nobody/nothing"], "'nobody/nothing' is neither"),
        (["task.data_root=null", "+task.datasets.colours.hub=no/body"], "'no/body', split 'train'"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_one_line_before_anything_is_spent(world, work, more, message):
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        check(config.compose(words(world, *more)))
    assert "\n" not in str(caught.value)


def test_missing_folders_and_differing_classes_are_named(world, tmp_path):
    shutil.copytree(world / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "colours" / "test" / "red")
    with pytest.raises(DataError, match=r"class 'red' is in .*train and not in .*test"):
        build(world, f"task.data_root={tmp_path}/data").check()
    shutil.rmtree(tmp_path / "data" / "colours" / "test")
    with pytest.raises(DataError, match=r"colours/test does not exist"):
        build(world, f"task.data_root={tmp_path}/data").check()


def test_a_damaged_picture_is_named(world, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bad.png").write_bytes(b"no picture")
    pixels = Pixels(FolderPictures(tmp_path), [0], Processor(world / "clip"))
    with pytest.raises(DataError, match=r"a/bad\.png cannot be read as a picture"):
        pixels[[0]]


def test_a_base_without_its_text_encoder_and_an_expert_that_is_no_clip_are_refused(world, tmp_path):
    with pytest.raises(DataError, match=r"has no 'logit_scale'; task\.base must be all of CLIP"):
        build(world, f"task.base={world}/expert_colours").check()
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="holds no vision model of CLIP"):
        build(world, f"task.experts={{sizes: {tmp_path}}}").parents()


def test_hub_pictures_come_from_datasets_with_their_own_class_names(world, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, configuration=None, split=None):
        asked.append((name, configuration, split))
        task = name.rpartition("/")[2]
        rng = np.random.default_rng(0)
        labels = list(range(len(TASKS[task]))) * 4
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(TASKS[task]))}
        )
        images = [picture(task, label, rng) for label in labels]
        return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = build(
        world,
        "task.data_root=null",
        "task.tasks=[colours,stripes]",
        "+task.datasets.colours.hub=some/colours",
        "+task.datasets.stripes.hub=some/stripes",
        "+task.datasets.stripes.config=plain",
        "+task.datasets.stripes.validation=dev",
    )
    assert task.class_names() == [list(TASKS["colours"]), list(TASKS["stripes"])]
    assert ("some/stripes", "plain", "dev") in asked
    x, y = task.data("validation").parts[1][[0, 1]]
    assert x.shape == (2, 3, SIDE, SIDE)
    assert y.tolist() == [0, 1]


def test_the_defaults_name_the_published_checkpoints_and_torch_alone_builds_the_task(
    work, environment
):
    program = (
        "import sys\n"
        "sys.modules['transformers'] = None\n"
        "from frontrunner import config\n"
        "from frontrunner.run import build_task\n"
        "task = build_task(config.compose(['task=vit_eight', 'method=merging/average']))\n"
        "print('\\n'.join([task.base, *task.checkpoints]))\n"
        "try:\n"
        "    task.check()\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "openai/clip-vit-base-patch32"
    assert len(lines) == 10
    assert lines[2] == "tanganke/clip-vit-base-patch32_stanford-cars"
    assert lines[-1].startswith("ConfigError CLIP needs transformers: pip install")
