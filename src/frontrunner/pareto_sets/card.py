"""The model card of an exported model: YAML for the hub, then text for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WHAT = {
    "checkpoint": "A checkpoint like its base's: `from_pretrained` of transformers loads it.",
    "network": (
        "`model.safetensors` holds the network's tensors by name; `model.json` lists their shapes."
    ),
    "lora": (
        "A LoRA adapter of the model in `base/`, to which `PeftModel.from_pretrained` of peft adds "
        "it; that one is merged from the parents and is none of them."
    ),
    "factors": "Low-rank factors from which the model of any preference is made.",
}
_LIBRARY = {"checkpoint": "transformers", "lora": "peft"}
_RELATION = {"checkpoint": "merge", "lora": "merge"}


def text(title: str, kind: str, facts: Mapping[str, Any]) -> str:
    """The card of one export.

    Args:
        title: heading.
        kind: ``checkpoint``, ``network``, ``lora`` or ``factors``.
        facts: as in ``frontrunner_export.json``.
    """
    return "\n".join(
        [*_front_matter(kind, facts), "", f"# {title}", "", *_body(kind, facts)],
    )


def _front_matter(kind: str, facts: Mapping[str, Any]) -> list[str]:
    # JSON strings are YAML, whatever is in them.
    bases = [json.dumps(name) for name in _hub_names(facts)]
    lines = ["---"]
    if bases:
        lines += ["base_model:", *(f"- {name}" for name in bases)]
        if kind in _RELATION:
            lines.append(f"base_model_relation: {_RELATION[kind]}")
    if kind in _LIBRARY:
        lines.append(f"library_name: {_LIBRARY[kind]}")
    tags = ["merge", "frontrunner"] if bases else ["frontrunner"]
    return [*lines, "tags:", *(f"- {tag}" for tag in tags), "---"]


def _hub_names(facts: Mapping[str, Any]) -> list[str]:
    """Parents as the hub takes them: an id, or of a folder its last part."""
    names = [name for name in (facts.get("base"), *facts.get("experts", ())) if name]
    found = [
        name.partition("@")[0] if _is_id(name) else Path(name).name
        for name in names
        if _is_id(name) or Path(name).is_dir()
    ]
    return list(dict.fromkeys(name for name in found if _HUB_NAME.fullmatch(name)))


def _is_id(name: str) -> bool:
    plain = name.partition("@")[0]
    return bool(_HUB_NAME.fullmatch(plain)) and "/" in plain and not Path(name).exists()


def _body(kind: str, facts: Mapping[str, Any]) -> list[str]:
    lines = [
        "One model of a Pareto set, made with frontrunner for the preference below.",
        _WHAT[kind],
        "",
        *_preference_table(facts),
    ]
    if facts.get("base"):
        lines += ["## Parents", "", f"- base: `{facts['base']}`"]
        lines += [f"- expert: `{name}`" for name in facts.get("experts", ())]
        lines.append("")
    made = [
        ("method", "method"),
        ("coefficient λ at this preference", "scale"),
        ("task", "task"),
        ("seed", "seed"),
        ("frontrunner", "version"),
    ]
    known = [f"- {label}: `{facts[key]}`" for label, key in made if facts.get(key) is not None]
    if known:
        lines += ["## How it was made", "", *known, ""]
    if facts.get("settings"):
        settings = json.dumps(facts["settings"], indent=1, ensure_ascii=False)
        lines += ["Settings of the method:", "", "```json", settings, "```", ""]
    if facts.get("commands"):
        lines += ["To repeat it:", "", "```bash", *facts["commands"], "```", ""]
    return lines


def _preference_table(facts: Mapping[str, Any]) -> list[str]:
    preference = facts["preference"]
    names = facts.get("objectives") or [f"objective {k + 1}" for k in range(len(preference))]
    measured = facts.get("measured") or {}
    values = measured.get("values")
    head = ["objective", "preference"]
    if values:
        head.append(f"{measured['evaluator']}, {measured['split']} split")
    rows = [
        [name, f"{p:.4g}", *([f"{values[k]:.4g}"] if values else [])]
        for k, (name, p) in enumerate(zip(names, preference, strict=True))
    ]
    table = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(row) + " |" for row in table), ""]
