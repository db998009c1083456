"""Domains of text for language models: embedded ones, files, and data sets of the hub.

Embedded domains come from the Python installation itself, so they need no files and no network:
``prose`` (its language reference, as `pydoc` has it), ``code`` (modules of its standard library)
and ``arithmetic`` (distinct sums, differences, products and quotients). The same Python gives the
same text; another version gives slightly other prose and code.

Conventions of perplexity. A text is tokenised as a whole, without special tokens, and cut into
windows of W tokens that do not overlap; what is left over at the end is dropped, and no token is
put in front of a window. The loss of a window is the mean cross-entropy, in nats, of its W - 1
tokens after the first, each predicted from those before it in the window. Perplexity is
exp(total negative log-likelihood / number of predicted tokens).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from frontrunner.errors import ConfigError, DataError, nearest
from frontrunner.seeds import derive
from frontrunner.tasks.base import Split
from frontrunner.tasks.tabular import load_hub

Texts = dict[Split, str]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FRACTIONS = (0.8, 0.1, 0.1)

CHARACTERS = 300_000  # of an embedded domain, all splits together, at most
_BLOCK = 4_000  # characters, of the blocks that are dealt out to splits
# fmt: off
_MODULES = [
    "argparse", "ast", "bdb", "calendar", "cmd", "codeop", "configparser", "contextlib", "copy",
    "csv", "dataclasses", "difflib", "doctest", "enum", "filecmp", "fileinput", "fnmatch",
    "fractions", "ftplib", "functools", "getopt", "glob", "gzip", "heapq", "http.client",
    "http.server", "inspect", "ipaddress", "json.decoder", "json.encoder", "linecache", "locale",
    "mimetypes", "numbers", "optparse", "pickle", "plistlib", "poplib", "pprint", "queue", "random",
    "sched", "selectors", "shlex", "smtplib", "socketserver", "statistics", "string", "textwrap",
    "threading", "timeit",
]
# fmt: on

# ---------------------------------------------------------------------- embedded


def embedded(name: str) -> Texts:
    """The three splits of an embedded domain, at most `CHARACTERS` together.

    Raises:
        ConfigError: no such domain.
        DataError: this Python installation comes without the text.
    """
    if name not in EMBEDDED:
        raise ConfigError(f"no embedded text '{name}'{nearest(name, EMBEDDED)}")
    return _embedded(name).copy()


@cache
def _embedded(name: str) -> Texts:
    return split_text(EMBEDDED[name](), what=f"embedded text '{name}'")


def prose() -> str:
    """Paragraphs of Python's language reference, each once and in one line."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError("this Python has no pydoc_data; give texts of your own") from None
    found: dict[str, None] = {}  # topics repeat one another, and no split may hold another's text
    for topic in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[topic]):
            lines = [line.strip() for line in paragraph.splitlines()]
            line = " ".join(x for x in lines if not re.fullmatch(r"(\W)\1*", x))
            line = re.sub(r"\s+", " ", line)
            if len(line) >= 60 and "::=" not in line and ">>>" not in line:
                found[line] = None
    return _up_to("\n".join(found))


def code() -> str:
    """Sources of modules of the standard library, one after the other, shortest modules first."""
    sources = []
    for module in _MODULES:
        spec = importlib.util.find_spec(module)
        source = spec.loader.get_source(module) if spec and spec.loader else None  # type: ignore[attr-defined]
        if source:
            sources.append(source.strip())
    if not sources:
        raise DataError("this Python has no sources of its standard library; give other texts")
    return _up_to("\n\n\n".join(sorted(sources, key=len)))


def arithmetic() -> str:
    """Lines such as ``12 + 7 = 19``, drawn without repetition from four operations.

    Operands of + and - lie below 200, with results of at least 0; factors and quotients lie below
    100 and 30.
    """
    lines = [f"{a} + {b} = {a + b}\n" for a in range(200) for b in range(200)]
    lines += [f"{a} - {b} = {a - b}\n" for a in range(200) for b in range(a + 1)]
    lines += [f"{a} * {b} = {a * b}\n" for a in range(100) for b in range(30)]
    lines += [f"{a * b} / {b} = {a}\n" for a in range(100) for b in range(1, 30)]
    order = np.random.default_rng(derive(0, "arithmetic")).permutation(len(lines))
    return _up_to("".join(lines[i] for i in order))


EMBEDDED: dict[str, Callable[[], str]] = {"prose": prose, "code": code, "arithmetic": arithmetic}


def _up_to(text: str) -> str:
    """The first `CHARACTERS` of a text, ending with a line."""
    return text if len(text) <= CHARACTERS else text[: text.rfind("\n", 0, CHARACTERS) + 1]


def split_text(text: str, fractions: Sequence[float] = FRACTIONS, what: str = "the text") -> Texts:
    """Deal a text out to three splits by contiguous blocks, which are the same every time.

    Blocks of about 4,000 characters (fewer where the text is short) end with lines, unless lines
    are longer than that. Each split keeps its blocks in the order of the text.

    Args:
        text: what is divided.
        fractions: of the blocks that become train, validation and test; positive, of sum 1.
        what: what messages call the text.

    Raises:
        ConfigError: fractions that are not three positive numbers of sum 1.
        DataError: too short for three blocks.
    """
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise ConfigError(f"{what}: fractions must be 3 positive numbers of sum 1, not {fractions}")
    blocks = list(_blocks(text, min(_BLOCK, max(1, len(text) // 50))))
    sizes = [max(1, round(share * len(blocks))) for share in shares[1:]]
    if len(blocks) - sum(sizes) < 1:
        raise DataError(f"{what} has {len(text)} characters, too few to divide into three splits")
    order = np.random.default_rng(derive(0, "text", len(blocks))).permutation(len(blocks))
    chosen = np.split(order, [len(blocks) - sum(sizes), len(blocks) - sizes[1]])
    return {
        split: "".join(blocks[i] for i in sorted(part))
        for split, part in zip(SPLITS, chosen, strict=True)
    }


def _blocks(text: str, size: int) -> Iterator[str]:
    start = 0
    while start < len(text):
        line_end = text.find("\n", start + size - 1, start + 4 * size)
        end = line_end + 1 if line_end >= 0 else start + size
        yield text[start:end]
        start = end


# ---------------------------------------------------------------------- the user's own

_KEYS = ("path", "hub", "config", "field", "fractions", *SPLITS)


class TextSource:
    """Where the text of one domain comes from; nothing is read before `texts`.

    Args:
        name: of the domain, for messages.
        source: ``embedded``; a path; or a mapping with either ``path`` (a ``.txt`` or ``.jsonl``
            file, or a folder of them) or ``hub`` (a data set of the Hugging Face hub, and
            ``config``, its configuration). ``field`` is the text's field in JSON lines and data
            sets, ``text`` by default. Splits are ``fractions`` of the whole, or separate:
            ``train``, ``validation`` and ``test`` name files, or splits of the data set, of which
            ``train`` alone is divided by default.

    Raises:
        ConfigError: an unknown key, or keys that do not go together; the domain is named.
    """

    def __init__(self, name: str, source: str | os.PathLike[str] | Mapping[str, Any]) -> None:
        self.name = name
        self.embedded = source == "embedded"
        if self.embedded and name not in EMBEDDED:
            raise ConfigError(f"task.texts: no embedded text '{name}'{nearest(name, EMBEDDED)}")
        given: dict[str, Any] = (
            dict(source) if isinstance(source, Mapping) else {"path": str(source)}
        )
        for key in given:
            if key not in _KEYS:
                raise ConfigError(f"task.texts.{name}: unknown key '{key}'{nearest(key, _KEYS)}")
        self.options = {key: value for key, value in given.items() if value is not None}
        self.field = str(self.options.get("field", "text"))
        self.parts = {s: str(self.options[s]) for s in SPLITS if s in self.options}
        if len(self.parts) not in (0, 3):
            missing = next(s for s in SPLITS if s not in self.parts)
            raise ConfigError(f"task.texts.{name} says {', '.join(self.parts)}, but not {missing}")
        kinds = [kind for kind in ("path", "hub") if kind in self.options]
        if len(kinds) > 1 or (not kinds and not self.parts) or ("path" in kinds and self.parts):
            raise ConfigError(
                f"task.texts.{name} needs one of: path, hub, or train, validation and test"
            )
        if self.parts and "fractions" in self.options:
            raise ConfigError(f"task.texts.{name} has splits of its own: leave fractions out")
        self._texts: Texts | None = None

    def check(self) -> None:
        """Read what is a file here; data sets of the hub are left for later."""
        if "hub" not in self.options:
            self.texts()

    def texts(self) -> Texts:
        """The three splits. Documents (files, JSON lines, rows) are joined by an empty line.

        Raises:
            DataError: a file or data set that is missing, unreadable, has no such field, or is too
                short to be divided; it is named.
        """
        if self._texts is None:
            self._texts = embedded(self.name) if self.embedded else self._read()
        return self._texts

    def _read(self) -> Texts:
        if "hub" in self.options:
            repository, config = str(self.options["hub"]), self.options.get("config")
            if self.parts:
                return {s: self._rows(repository, config, part) for s, part in self.parts.items()}
            whole, what = self._rows(repository, config, "train"), repository
        elif self.parts:
            return {s: read_text(part, self.field) for s, part in self.parts.items()}
        else:
            what = str(self.options["path"])
            whole = read_text(what, self.field)
        return split_text(whole, self.options.get("fractions", FRACTIONS), what)

    def _rows(self, repository: str, config: str | None, split: str) -> str:
        loaded = load_hub(repository, split, config)
        if self.field not in loaded.column_names:
            raise DataError(
                f"hub data set '{repository}' has no field '{self.field}'"
                f"{nearest(self.field, loaded.column_names)}"
            )
        return "\n\n".join(str(row) for row in loaded[self.field] if row)


def read_text(path: str | os.PathLike[str], field: str = "text") -> str:
    """A ``.txt`` file, the ``field`` of a ``.jsonl`` file, or all of them in a folder, by name.

    Raises:
        DataError: missing, neither kind, not UTF-8, empty, or a line without that field.
    """
    where = Path(path).expanduser()
    if where.is_dir():
        found = sorted(p for p in where.rglob("*") if p.suffix in (".txt", ".jsonl"))
        if not found:
            raise DataError(f"{where} holds no .txt and no .jsonl files")
        return "\n\n".join(read_text(p, field) for p in found)
    if where.suffix not in (".txt", ".jsonl"):
        what = "is neither a .txt nor a .jsonl file" if where.exists() else "does not exist"
        raise DataError(f"{where} {what}")
    try:
        text = where.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text: {error.reason}") from None
    if where.suffix == ".jsonl":
        text = "\n\n".join(_fields(where, text, field))
    if not text.strip():
        raise DataError(f"{where} is empty")
    return text


def _fields(path: Path, content: str, field: str) -> Iterator[str]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from None
        value = record.get(field) if isinstance(record, dict) else None
        if not isinstance(value, str):
            keys = record if isinstance(record, dict) else ()
            raise DataError(f"{path}, line {number}: no text field '{field}'{nearest(field, keys)}")
        yield value


# ---------------------------------------------------------------------- tokens


def windows(text: str, tokenize: Callable[[str], Sequence[int]], length: int, what: str) -> Tensor:
    """(n, length) token ids: a text cut into windows that do not overlap, see the module.

    Args:
        text: tokenised as a whole.
        tokenize: text -> token ids, without special tokens.
        length: W, tokens per window, at least 2.
        what: what messages call the text.

    Raises:
        DataError: the text is shorter than one window.
    """
    ids = torch.as_tensor(tokenize(text), dtype=torch.long)
    n = len(ids) // length
    if n == 0:
        raise DataError(f"{what} has {len(ids)} tokens, fewer than one window of {length}")
    return ids[: n * length].view(n, length)


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of next tokens within windows, in nats: logits (B, W, V), ids (B, W).

    The last position predicts nothing, since the token after it belongs to the next window.
    """
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
