"""Documents of text files, JSON files and data sets of the hub."""

from __future__ import annotations

import gzip
import json
import os
import string
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO, cast

from frontrunner.errors import ConfigError, DataError, first_line, nearest
from frontrunner.tasks.tabular import data_root, load_hub

KINDS = (".txt", ".jsonl", ".json")


class Fields:
    """The text of a record: one field, several joined by line ends, or a template.

    Args:
        fields: a name; several, of which those that are empty in a record are left out; or a
            template such as ``"{question}\\n{answer}"``.

    Raises:
        ConfigError: no name, or a template that cannot be read.
    """

    def __init__(self, fields: str | Sequence[str] = "text") -> None:
        self.template = fields if isinstance(fields, str) and "{" in fields else None
        if self.template is not None:
            self.names = _names(self.template)
        else:
            several = isinstance(fields, Sequence) and not isinstance(fields, str)
            self.names = [str(name) for name in fields] if several else [str(fields)]
        if not self.names or not all(self.names):
            raise ConfigError(f"fields '{fields}' name no field")

    def text(self, record: Any, where: str) -> str:
        """What a record says; it may be empty.

        Args:
            record: names -> values.
            where: what messages call it.

        Raises:
            DataError: a field that is missing or not text.
        """
        values = {}
        for name in self.names:
            value = record.get(name) if isinstance(record, Mapping) else None
            if value is None and isinstance(record, Mapping) and name in record:
                value = ""
            if not isinstance(value, str):
                keys = record if isinstance(record, Mapping) else ()
                raise DataError(f"{where}: no text field '{name}'{nearest(name, keys)}")
            values[name] = value
        if self.template is not None:
            return self.template.format(**values)
        return "\n".join(value for value in values.values() if value)


def _names(template: str) -> list[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"template '{template}': {error}") from None
    names = [name for _, name, _, _ in parts if name is not None]
    plain = all(not form and not conversion for _, _, form, conversion in parts)
    if not plain or not all(name.isidentifier() for name in names):
        raise ConfigError(f"template '{template}' may hold only names of fields, as {{question}}")
    return names


def joined(documents: Iterable[str]) -> str:
    """Documents with an empty line between them; empty ones are left out."""
    return "\n\n".join(document for document in documents if document)


def find(path: str | os.PathLike[str]) -> Path:
    """A path as it is or, if nothing is there, under the folder that $FRONTRUNNER_DATA names."""
    where, root = Path(path).expanduser(), data_root()
    if root is not None and not where.exists() and (root / where).exists():
        return root / where
    return where


def read_text(
    path: str | os.PathLike[str],
    fields: Fields | str = "text",
    rows: int | None = None,
) -> str:
    """A ``.txt`` file, the records of a ``.jsonl`` or ``.json`` file, or all in a folder, by name.

    Any of them may be compressed (``.gz``). A ``.json`` file is an array of records, or lines.

    Args:
        path: is looked for here, then under $FRONTRUNNER_DATA.
        fields: of a record, see `Fields`.
        rows: documents that are read, at most; a ``.txt`` file is one.

    Raises:
        DataError: missing, none of these kinds, not UTF-8, empty, or a record without a field.
    """
    where, one = find(path), Fields(fields) if isinstance(fields, str) else fields
    if not where.exists():
        root = data_root()
        second = f"under {root}" if root else "under $FRONTRUNNER_DATA, which is not set"
        raise DataError(f"{where} does not exist" + f", nor {second}" * (not where.is_absolute()))
    found = [where]
    if where.is_dir():
        found = sorted(p for p in where.rglob("*") if _kind(p) in KINDS and p.is_file())
        if not found:
            raise DataError(f"{where} holds no {', '.join(KINDS)} files, plain or .gz")
    elif _kind(where) not in KINDS:
        raise DataError(f"{where} is not a {', '.join(KINDS)} file, plain or .gz")
    return joined(islice((text for p in found for text in _documents(p, one)), rows))


def read_rows(
    repository: str,
    split: str,
    config: str | None = None,
    fields: Fields | str = "text",
    rows: int | None = None,
    streaming: bool = False,
) -> str:
    """A split of a data set of the Hugging Face hub, or of a local folder in its format.

    Args:
        repository, split, config: see `frontrunner.tasks.tabular.load_hub`.
        fields: of a row, see `Fields`.
        rows: that are read, at most.
        streaming: fetch them as they are read.

    Raises:
        DataError: it cannot be loaded, is empty, or has no such field.
    """
    what, one = (
        f"hub data set '{repository}'",
        Fields(fields) if isinstance(fields, str) else fields,
    )
    loaded = load_hub(repository, split, config, streaming=streaming)
    texts = []
    try:
        for row in islice(loaded, rows):
            texts.append(one.text(row, what))
    except DataError:
        raise
    except Exception as error:  # of the network, or of a file: many kinds, none of its own base
        raise DataError(f"{what}, split '{split}' cannot be read: {first_line(error)}") from None
    if not any(text.strip() for text in texts):
        raise DataError(f"{what}, split '{split}' is empty")
    return joined(texts)


def _kind(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def _documents(path: Path, fields: Fields) -> Iterator[str]:
    """What is not empty in a file, in order, read as it is asked for."""
    some = False
    try:
        with _opened(path) as handle:
            if _kind(path) == ".txt":
                texts: Iterable[str] = [handle.read()]
            else:
                texts = (fields.text(record, place) for place, record in _records(path, handle))
            for text in texts:
                if text.strip():
                    some = True
                    yield text
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason}") from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    if not some:
        raise DataError(f"{path} is empty")


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig"))
    return path.open(encoding="utf-8-sig")


def _records(path: Path, handle: TextIO) -> Iterator[tuple[str, Any]]:
    """Records and where each is: of an array, or line by line."""
    lines = enumerate(handle, start=1)
    start = [(number, line) for number, line in islice(lines, 1)]
    if _kind(path) == ".json" and start and start[0][1].lstrip().startswith("["):
        try:
            records = json.loads(start[0][1] + "".join(line for _, line in lines))
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error})") from None
        yield from ((f"{path}, record {i}", record) for i, record in enumerate(records, start=1))
        return
    for number, line in chain(start, lines):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error})") from None
