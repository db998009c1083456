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
    "compact": (
        "Bitmaps and values of sparse models, and what is dense once. "
        "`frontrunner export THIS_FOLDER --preference … --out DIR` makes one model of it, a "
        "checkpoint that `from_pretrained` of transformers loads; `compact.json` says how."
    ),
}
_LIBRARY = {"checkpoint": "transformers", "lora": "peft"}
_RELATION = {"checkpoint": "merge", "lora": "merge"}


def text(title: str, kind: str, facts: Mapping[str, Any]) -> str:
    """The card of one export.

    Args:
        title: heading.
        kind: ``checkpoint``, ``network``, ``lora``, ``factors`` or ``compact``.
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
        if kind in _RELATION and not _is_sparse(facts):
            lines.append(f"base_model_relation: {_RELATION[kind]}")
    if kind in _LIBRARY:
        lines.append(f"library_name: {_LIBRARY[kind]}")
    tags = ["pruning"] if _is_sparse(facts) else ["merge"] if bases else []
    return [*lines, "tags:", *(f"- {tag}" for tag in [*tags, "frontrunner"]), "---"]


def _is_sparse(facts: Mapping[str, Any]) -> bool:
    return "sparsity" in facts


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
    what = "One model of a Pareto set, made with frontrunner for the preference below."
    if "preference" not in facts:
        what = "A Pareto set of models, made with frontrunner."
    lines = [what, _WHAT[kind], "", *_preference_table(facts), *_zeros(facts)]
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


def _zeros(facts: Mapping[str, Any]) -> list[str]:
    if not _is_sparse(facts):
        return []
    lines = [
        "## Sparsity",
        "",
        f"- non-zeros: {facts['nonzeros']:,} of {facts['pruned_parameters']:,} in pruned layers, "
        f"counted in the files (sparsity {facts['sparsity']:.6g})",
        f"- bytes of weights: {facts['bytes']:,}",
    ]
    if "models" in facts:
        share = facts["bytes"] / facts["bytes_dense_models"]
        lines.append(
            f"- stored models: {facts['models']}; as dense checkpoints they take "
            f"{facts['bytes_dense_models']:,} bytes, of which this is {share:.3f}"
        )
        lines += ["", "Zeros save bytes on disk here; they make a served model no faster.", ""]
    else:
        lines += ["", "Zeros are stored like other numbers: neither bytes nor time are saved.", ""]
    return lines


def _preference_table(facts: Mapping[str, Any]) -> list[str]:
    if "preference" not in facts:
        return []
    preference = facts["preference"]
    names = facts.get("objectives") or [f"objective {k + 1}" for k in range(len(preference))]
    if len(preference) == len(names) + 1:  # see `frontrunner.pareto_sets.budgets`
        names = ["cost", *names]
    measured = facts.get("measured") or {}
    values, others = measured.get("values"), measured.get("objectives")
    split = f", {measured['split']} split" if measured.get("split") else ""
    head = ["objective", "preference"]
    rows = [[name, f"{p:.4g}"] for name, p in zip(names, preference, strict=True)]
    if values and not others:
        head.append(f"{measured['evaluator']}{split}")
        rows = [[*row, f"{value:.4g}"] for row, value in zip(rows, values, strict=True)]
    lines = _table(head, rows)
    if values and others:
        pairs = zip(others, values, strict=True)
        rows = [[name, f"{value:.4g}"] for name, value in pairs]
        lines += _table(["measured", f"{measured['evaluator']}{split}"], rows)
    return lines


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    table = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(row) + " |" for row in table), ""]
