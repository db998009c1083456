"""What a page lets its reader explore: the points, once, and a control that moves along a front.

Figures hold no coordinates of points. Their traces name runs and columns, and `explore.js`, which
every page carries, fills them from one store. So points travel once however many plots show them,
and plots and control speak of the same ones.
"""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontrunner.front.collect import FRONT, RUN, Entry
from frontrunner.front.front import Front

Array = NDArray[np.float64]

PARETO_SET = Path("pareto_set") / "pareto_set.json"


def script() -> str:
    """The page's own JavaScript."""
    return Path(__file__).with_name("explore.js").read_text(encoding="utf-8")


def store(entries: Sequence[Entry]) -> dict[str, Any]:
    """The points of all entries, as JSON values; arrays are base64 of little-endian float64.

    Runs are in the order of ``entries``, by which traces name them (`bundles`). Equal
    grids of preferences are stored once.
    """
    preferences: dict[str, int] = {}
    runs = []
    for e in entries:
        front = e.front
        asked = unusable(front)
        grid = None
        if front.preferences is not None:
            grid = preferences.setdefault(_packed(front.preferences), len(preferences))
        command, why = command_of(e)
        keys = sorted({key for cost in front.costs for key in cost})
        runs.append(
            {
                "label": e.label,
                "seed": e.seed,
                "points": len(front),
                "asked": list(front.asked_for) if front.preferences is not None else [],
                "kind": front.preference_kind,
                "preferences": grid,
                "unusable": asked,
                "values": _packed(front.values),
                "dominated": "".join("01"[not on] for on in front.nondominated()),
                "costs": {k: [c.get(k) for c in front.costs] for k in keys},
                "command": command,
                "why": why,
            }
        )
    objectives = [
        {"name": o.name, "label": o.label, "unit": o.unit} for o in entries[0].front.objectives
    ]
    return {"objectives": objectives, "preferences": list(preferences), "runs": runs}


def unusable(front: Front) -> str:
    """Why there is nothing to slide along on a front; empty where there is."""
    p = front.preferences
    if p is None:
        return "the points of this front carry no preferences"
    if (p < 0).any() or (p.sum(axis=1) <= 0).any():
        return "the preferences of this front are not on the simplex"
    if p.shape[1] < 2:
        return "the preferences of this front have one entry, so there is nothing to choose"
    return ""


def command_of(e: Entry) -> tuple[str, str]:
    """The words that export a model of this run, but for the preference; or why there are none."""
    run = e.path.parent
    if e.path.name != FRONT or not (run / RUN).is_file():
        return "", "this front has no run directory beside it, so there is no model to export here"
    if not (run / PARETO_SET).is_file():
        return "", f"{run / PARETO_SET.parent} is missing, so there is no model to export"
    return f"frontrunner export {shlex.quote(str(run))}", ""


def control(entries: Sequence[Entry]) -> str:
    """The control as HTML; a sentence where no front has preferences to slide along."""
    reasons = [unusable(e.front) for e in entries]
    if all(reasons):
        said = "; ".join(dict.fromkeys(reasons)).replace("this front", "these fronts")
        return (
            "<p class='soft' id='explore-none'>There is no preference to slide along here: "
            f"{html.escape(said)}.</p>"
        )
    return CONTROL


CONTROL = """
<section class="explore" id="explore" aria-labelledby="explore-title">
<div class="row"><h3 id="explore-title">Move along a front</h3>
<label>method <select id="explore-method"></select></label>
<label>seed <select id="explore-seed"></select></label>
<span id="explore-step">
<button type="button" id="explore-back" aria-label="previous point">‹</button>
<button type="button" id="explore-on" aria-label="next point">›</button></span>
<span class="soft" id="explore-meaning"></span></div>
<div id="explore-sliders" role="group" aria-labelledby="explore-title"></div>
<div id="explore-said" role="status" aria-live="polite"></div>
<div id="explore-export"><code id="explore-command" tabindex="0" aria-label="export command"></code>
<button type="button" id="explore-copy">Copy</button></div>
<p class="soft" id="explore-why"></p>
</section>
"""


def as_json(value: Any) -> str:
    """JSON that may stand inside a script element: no ``<`` can end it. NaN becomes null."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _packed(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode()
