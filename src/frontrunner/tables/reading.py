"""A table file: rows and columns of runs, at three scales, beside what a paper reports.

A file under ``experiments/<paper>/`` is a mapping of these keys, of which ``title``, ``rows``,
``columns`` and ``scales`` must be there (docs/tables.md has them one by one)::

    title: Hypervolume on fairness tasks
    source: Chen & Kwok, NeurIPS 2022, Table 2      # whose numbers `reported` are
    overrides: [evaluator=objectives]               # of every run
    value: hypervolume                              # what a column shows where it does not say
    rows:
      COSMOS: [method=learning/cosmos]
    columns:
      Compas: [task=compas]
    reported:
      COSMOS: {Compas: 3.710 ± 0.004}
    scales:
      smoke: {seeds: 2, overrides: [training.steps=20]}
      cpu: {seeds: 5}
      paper: {seeds: 10}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from frontrunner.errors import ConfigError, first_line, nearest
from frontrunner.tables import values
from frontrunner.tables.table import (
    COMPARING,
    SCALES,
    SHOWN,
    Claim,
    Column,
    Panel,
    Reported,
    Row,
    Table,
)

TOP = {
    "extends", "title", "source", "overrides", "value", "rows", "hidden", "columns", "panels",
    "panel", "pool", "stub", "reported", "claims", "notes", "scales",
}  # fmt: skip
ROW = {"overrides", "like", "follows", "value", "beside", "hidden", *SCALES}
COLUMN = {
    "overrides", "rows", "value", "digits", "factor", "show", "minus", "between", "over", *SCALES,
}  # fmt: skip
PANEL = {"overrides", "value"}
SCALE = {
    "seeds", "overrides", "rows", "columns", "panels", "says", "differs", "comparable", "needs",
}  # fmt: skip
CLAIM = {"says", "order", "columns", "panels"}


def load(path: Path, scale: str) -> Table:
    """Read a table file at one of its scales.

    Raises:
        ConfigError: no such file or scale, an unknown key (the nearest valid one is suggested), a
            row or a value that does not exist, overrides that are not a list.
    """
    try:
        return _table(path, _read(path), scale)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def described(path: Path) -> tuple[str, tuple[str, ...]]:
    """The title of a table file, and its scales, smallest first.

    Raises:
        ConfigError: not a table file.
    """
    try:
        data = _read(path)
        there = _mapping(data.get("scales"), "scales")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return str(data.get("title", "")), tuple(name for name in SCALES if name in there)


# ---------------------------------------------------------------------- reading


def _read(path: Path, extending: tuple[Path, ...] = ()) -> Mapping[str, Any]:
    """The keys of a file, over those of the file it extends; rows are added to rows."""
    import yaml

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except FileNotFoundError:
        raise ConfigError("there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"not readable: {first_line(error)}") from None
    data = _mapping(data, "a table file")
    if "extends" not in data:
        return data
    other = path.parent / str(data["extends"])
    if other in (path, *extending):
        raise ConfigError(f"it extends {other}, which extends it")
    try:
        base = _read(other, (path, *extending))
    except ConfigError as error:
        raise ConfigError(f"it extends {other}: {error}") from None
    rows = {**_mapping(base.get("rows") or {}, "rows"), **_mapping(data.get("rows") or {}, "rows")}
    return {**base, **data, "rows": rows}


class _Number(float):
    """A number that is printed as it was written, 91.40 for example."""

    def __new__(cls, value: float, text: str) -> _Number:
        found = super().__new__(cls, value)
        found._text = text
        return found

    _text: str

    def __str__(self) -> str:
        return self._text


def _loader() -> Any:
    """A safe loader that refuses a key that stands twice, which YAML's own silently overwrites."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        own = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in own:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: '{key}' stands there twice")
            own.add(key)
        loader.flatten_mapping(node)  # `<<: *other` first, which own keys replace
        make = partial(loader.construct_object, deep=True)
        return {make(key): make(value) for key, value in node.value}

    def number(loader: Any, node: Any) -> _Number:
        return _Number(loader.construct_yaml_float(node), node.value)

    Loader.add_constructor("tag:yaml.org,2002:float", number)
    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Loader


def _table(path: Path, data: Mapping[str, Any], scale: str) -> Table:
    _known(data, TOP, "")
    for key in ("title", "rows", "columns", "scales"):
        if key not in data:
            raise ConfigError(f"'{key}' is missing")
    by_scale = _mapping(data["scales"], "scales")
    _known(by_scale, set(SCALES), "scales.")
    if scale not in by_scale:
        raise ConfigError(f"it has no scale '{scale}'{nearest(scale, by_scale)}")
    own = _mapping(by_scale[scale] or {}, f"scales.{scale}")
    _known(own, SCALE, f"scales.{scale}.")
    hidden = [str(name) for name in data.get("hidden") or ()]
    if unknown := [name for name in hidden if name not in _names(data, "rows")]:
        raise ConfigError(
            f"hidden: no row '{unknown[0]}'{nearest(unknown[0], _names(data, 'rows'))}"
        )
    rows = [_row(n, v, scale, hidden) for n, v in _chosen("rows", data, own).items()]
    fallback = data.get("value", "hypervolume")
    columns = [
        _column(n, v, fallback, scale, path.parent)
        for n, v in _chosen("columns", data, own).items()
    ]
    panels = [_panel(n, v) for n, v in _chosen("panels", data, own).items()]
    table = Table(
        path=path,
        scale=scale,
        title=str(data["title"]),
        source=str(data.get("source", "")),
        rows=tuple(rows),
        columns=tuple(columns),
        panels=tuple(panels) or (Panel(),),
        seeds=_seeds(own.get("seeds", 1), scale),
        overrides=_words(data.get("overrides"), "overrides"),
        last=_words(own.get("overrides"), f"scales.{scale}.overrides"),
        reported=_reported(data.get("reported") or {}, _blocks(data)),
        claims=tuple(_claim(c, columns) for c in data.get("claims") or ()),
        notes=(*_lines(data.get("notes"), "notes"), *_lines(own.get("differs"), "differs")),
        stub=str(data.get("stub", "method")),
        panel=str(data.get("panel", "")),
        pool=bool(data.get("pool", False)),
        comparable=bool(own.get("comparable", True)),
        says=str(own.get("says", "")),
        needs=str(own.get("needs", "")),
    )
    _check(table, data)
    return table


def _chosen(what: str, data: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rows, columns or panels of a scale: its own, those of the table it names, or all of them."""
    everything = _mapping(data.get(what) or {}, what)
    wanted = own.get(what)
    if wanted is None:
        return everything
    if isinstance(wanted, Mapping):
        return wanted
    names = [str(w) for w in wanted]
    by_name = {str(k): v for k, v in everything.items()}
    for name in names:
        if name not in by_name:
            raise ConfigError(f"'{name}' is not one of its {what}{nearest(name, by_name)}")
    return {name: by_name[name] for name in names}


def _row(name: Any, data: Any, scale: str, hidden: Sequence[str]) -> Row:
    where = f"rows.{name}"
    if not isinstance(data, Mapping):
        return Row(str(name), _words(data, where), hidden=str(name) in hidden)
    _known(data, ROW, f"{where}.")
    words = (*_words(data.get("overrides"), where), *_words(data.get(scale), f"{where}.{scale}"))
    told = {key: _text(data.get(key)) for key in ("like", "follows")}
    value = data.get("value")
    value = {"name": value} if isinstance(value, str) else value
    if told["like"] and (words or told["follows"]):
        raise ConfigError(f"{where} reads the runs of '{told['like']}': it has no overrides")
    beside = {
        str(role): str(other)
        for role, other in _mapping(data.get("beside") or {}, f"{where}.beside").items()
    }
    if value is not None:
        _mapping(value, f"{where}.value")
    unseen = bool(data.get("hidden", False)) or str(name) in hidden
    return Row(str(name), words, **told, value=value, beside=beside, hidden=unseen)


def _column(name: Any, data: Any, fallback: Any, scale: str, folder: Path) -> Column:
    where = f"columns.{name}"
    if not isinstance(data, Mapping):
        data = {"overrides": data}
    _known(data, COLUMN, f"{where}.")
    show = str(data.get("show", "mean"))
    if show not in SHOWN:
        raise ConfigError(f"{where}.show={show}{nearest(show, SHOWN)}")
    between = data.get("between")
    if between is not None and not (isinstance(between, Sequence) and len(between) == 2):
        raise ConfigError(f"{where}.between needs two rows")
    minus, over = _text(data.get("minus")), _text(data.get("over"))
    if sum(x is not None for x in (minus, over, between)) > 1:
        raise ConfigError(f"{where}: only one of minus, over and between")
    if show in COMPARING and minus is None:
        raise ConfigError(f"{where}.show={show} needs a row to compare with: minus: …")
    try:
        value = values.of(data.get("value", fallback), folder)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Column(
        name=str(name),
        value=value,
        overrides=(
            *_words(data.get("overrides"), where),
            *_words(data.get(scale), f"{where}.{scale}"),
        ),
        rows={
            str(n): _words(v, f"{where}.rows.{n}")
            for n, v in _mapping(data.get("rows") or {}, f"{where}.rows").items()
        },
        digits=None if data.get("digits") is None else int(data["digits"]),
        factor=float(data.get("factor", 1.0)),
        show=show,
        minus=minus,
        over=over,
        between=None if between is None else (str(between[0]), str(between[1])),
    )


def _panel(name: Any, data: Any) -> Panel:
    where = f"panels.{name}"
    if not isinstance(data, Mapping):
        return Panel(str(name), _words(data, where))
    _known(data, PANEL, f"{where}.")
    value = None if data.get("value") is None else _mapping(data["value"], f"{where}.value")
    return Panel(str(name), _words(data.get("overrides"), where), value)


def _claim(data: Any, columns: Sequence[Column]) -> Claim:
    data = _mapping(data, "a claim")
    _known(data, CLAIM, "claims.")
    if len(data.get("order") or ()) < 2:
        raise ConfigError("a claim needs an order of at least two rows, from the largest value")
    names = data.get("columns") or [c.name for c in columns]
    return Claim(
        str(data.get("says", " > ".join(data["order"]))),
        tuple(map(str, data["order"])),
        tuple(map(str, names)),
        tuple(map(str, data.get("panels") or ())),
    )


def _blocks(data: Mapping[str, Any]) -> bool:
    return bool(data.get("panels")) and not data.get("pool")


def _reported(data: Any, panels: bool) -> dict[tuple[str, str, str], Reported]:
    """By panel, row and column; a table without panels has none on the outside."""
    found = {}
    outer = _mapping(data, "reported").items() if panels else [("", data)]
    for panel, by_row in outer:
        for row, by_column in _mapping(by_row, f"reported.{panel}").items():
            for column, cell in _mapping(by_column, f"reported.{row}").items():
                if cell is not None:
                    where = f"reported.{row}.{column}"
                    found[str(panel), str(row), str(column)] = _cell(cell, where)
    return found


def _cell(cell: Any, where: str) -> Reported:
    text = str(cell).strip()
    match = re.fullmatch(r"(-?[\d.]+(?:e-?\d+)?)(?:\s*(?:±|\+-|\+/-)\s*([\d.]+))?", text)
    try:
        assert match is not None
        return Reported(float(match[1]), float(match[2]) if match[2] else None, text)
    except (AssertionError, ValueError):
        raise ConfigError(f"{where}: '{text}' is not a number or 'mean ± deviation'") from None


def _names(data: Mapping[str, Any], what: str) -> set[str]:
    """Of rows, columns or panels at any scale."""
    scales_ = [x for x in data["scales"].values() if isinstance(x, Mapping)]
    return {str(name) for part in (data, *scales_) for name in part.get(what) or ()}


def _check(table: Table, data: Mapping[str, Any]) -> None:
    """Names in the table that must stand for something in it."""
    rows = [r.name for r in table.rows]
    for name, found in (("rows", rows), ("columns", [c.name for c in table.columns])):
        if not found:
            raise ConfigError(f"there are no {name}")
    for row in table.rows:
        for other in filter(None, (row.like, row.follows)):
            if other not in rows or other == row.name:
                raise ConfigError(f"rows.{row.name}: no other row '{other}'{nearest(other, rows)}")
            if row.follows and table.row(other).follows:
                raise ConfigError(f"rows.{row.name} follows '{other}', which follows another row")
            if row.like and table.row(other).like:
                raise ConfigError(f"rows.{row.name} is like '{other}', which is like another row")
        for other in row.beside.values():
            if other not in rows:
                raise ConfigError(f"rows.{row.name}: no row '{other}'{nearest(other, rows)}")
        for column in table.columns:
            for panel in table.panels:
                column.value.instead(panel.value).instead(row.value)
    for column in table.columns:
        for name in column.rows:
            if name not in _names(data, "rows"):
                raise ConfigError(f"columns.{column.name}.rows: no row '{name}'")
    known = {*rows, *(role for row in table.rows for role in row.beside)}
    for column in table.columns:
        for other in (*column.rivals, *column.value.rows):
            if other not in known:
                raise ConfigError(f"columns.{column.name}: no row '{other}'{nearest(other, known)}")
    everywhere = {what: {"", *_names(data, f"{what}s")} for what in ("row", "column", "panel")}
    for key in table.reported:
        for what, name in zip(("panel", "row", "column"), key, strict=True):
            if name not in everywhere[what]:
                raise ConfigError(f"reported: no {what} '{name}'{nearest(name, everywhere[what])}")
    for claim in table.claims:
        for name in claim.order:
            if name not in everywhere["row"]:
                raise ConfigError(f"claims: no row '{name}'{nearest(name, everywhere['row'])}")


# ---------------------------------------------------------------------- pieces


def _known(data: Mapping[str, Any], keys: set[str], where: str) -> None:
    for key in data:
        if key not in keys:
            raise ConfigError(f"unknown key '{where}{key}'{nearest(str(key), keys)}")


def _mapping(data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} is a mapping of names, not {type(data).__name__}")
    return data


def _words(data: Any, where: str) -> tuple[str, ...]:
    if data is None:
        return ()
    if not isinstance(data, list) or not all(isinstance(word, str) for word in data):
        raise ConfigError(f"{where} is a list of overrides, such as [method=learning/cosmos]")
    return tuple(data)


def _lines(data: Any, where: str) -> tuple[str, ...]:
    if data is None:
        return ()
    lines = [data] if isinstance(data, str) else data
    if not isinstance(lines, list):
        raise ConfigError(f"{where} is a sentence, or a list of sentences")
    return tuple(str(line).strip() for line in lines)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _seeds(value: Any, scale: str) -> tuple[int, ...]:
    seeds = list(range(value)) if isinstance(value, int) else value
    valid = isinstance(seeds, list) and seeds and all(isinstance(s, int) and s >= 0 for s in seeds)
    if not valid or len(set(seeds)) < len(seeds):
        raise ConfigError(f"scales.{scale}.seeds is a number of seeds, or a list of different ones")
    return tuple(seeds)
