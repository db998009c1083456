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
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from frontrunner.errors import ConfigError, DataError, nearest
from frontrunner.seeds import derive
from frontrunner.tasks.base import Split
from frontrunner.tasks.text_files import Fields, read_rows, read_text

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
        fractions: of the blocks that become train, validation and test, positive, of sum 1; two
            are those of train and validation alone.
        what: what messages call the text.

    Raises:
        ConfigError: fractions that are not three (or two) positive numbers of sum 1.
        DataError: too short for three blocks.
    """
    shares = np.asarray(fractions, dtype=float)
    count = shares.size
    if count not in (2, 3) or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise ConfigError(f"{what}: fractions must be positive numbers of sum 1, not {fractions}")
    blocks = list(_blocks(text, min(_BLOCK, max(1, len(text) // 50))))
    sizes = [max(1, round(share * len(blocks))) for share in shares[1:]]
    first = len(blocks) - sum(sizes)
    if first < 1:
        raise DataError(f"{what} has {len(text)} characters, too few to divide into {count} splits")
    order = np.random.default_rng(derive(0, "text", len(blocks))).permutation(len(blocks))
    chosen = np.split(order, np.cumsum([first, *sizes[:-1]]))
    return {
        split: "".join(blocks[i] for i in sorted(part))
        for split, part in zip(SPLITS, chosen, strict=False)  # two parts: no test
    }


def _blocks(text: str, size: int) -> Iterator[str]:
    start = 0
    while start < len(text):
        line_end = text.find("\n", start + size - 1, start + 4 * size)
        end = line_end + 1 if line_end >= 0 else start + size
        yield text[start:end]
        start = end


# ---------------------------------------------------------------------- the user's own

_KEYS = ("path", "hub", "config", "field", "fields", "rows", "streaming", "fractions", *SPLITS)


class TextSource:
    """Where the text of one domain comes from; nothing is read before `texts`.

    Args:
        name: of the domain, for messages.
        source: ``embedded``; a path; or a mapping with either ``path`` or ``hub``.

    Keys of the mapping:

    - ``path``: a ``.txt``, ``.jsonl`` or ``.json`` file, plain or ``.gz``, or a folder of them. A
      relative path is looked for here, then under $FRONTRUNNER_DATA.
    - ``hub``: a data set of the Hugging Face hub; ``config``: its configuration.
    - ``field``: the text's field in records, ``text`` by default; or ``fields``: several, joined by
      line ends, or a template such as ``"{question}\n{answer}"``.
    - ``train``, ``validation``, ``test``: files, or splits of the data set. Without ``validation``,
      train is divided; without any, the whole (of a data set, its ``train``) is.
    - ``fractions``: of what is divided: of train, validation and test (0.8, 0.1, 0.1), or of train
      and validation (0.9, 0.1).
    - ``rows``: documents that are read of each part at most, a number, or one for each of the
      splits, as ``{train: 20000, test: 2000}``.
    - ``streaming``: whether rows of a data set are fetched as they are read, by default if ``rows``
      are given. They are not kept on disk then.

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
        what = f"task.texts.{name}"
        for key in given:
            if key not in _KEYS:
                raise ConfigError(f"{what}: unknown key '{key}'{nearest(key, _KEYS)}")
        self.options = options = {key: value for key, value in given.items() if value is not None}
        self.parts: dict[Split, str] = {s: str(options[s]) for s in SPLITS if s in options}
        for split in ("train", "test"):
            if self.parts and split not in self.parts:
                raise ConfigError(f"{what} says {', '.join(self.parts)}, but not {split}")
        kinds = [kind for kind in ("path", "hub") if kind in options]
        if len(kinds) > 1 or (not kinds and not self.parts) or ("path" in kinds and self.parts):
            raise ConfigError(f"{what} needs one of: path, hub, or train and test")
        if len(self.parts) == 3 and "fractions" in options:
            raise ConfigError(f"{what} has splits of its own: leave fractions out")
        self.fractions = options.get("fractions", FRACTIONS if not self.parts else (0.9, 0.1))
        if len(self.parts) != 3 and np.size(self.fractions) != 3 - len(self.parts) // 2:
            raise ConfigError(
                f"{what}.fractions must be those of "
                f"{'train and validation' if self.parts else 'train, validation and test'}, not "
                f"{self.fractions}"
            )
        if "field" in options and "fields" in options:
            raise ConfigError(f"{what} has field and fields: leave one out")
        try:
            self.fields = Fields(options.get("fields", options.get("field", "text")))
        except ConfigError as error:
            raise ConfigError(f"{what}: {error}") from None
        self.rows = _rows(what, options.get("rows"))
        self._texts: Texts | None = None

    def check(self) -> None:
        """Read what is a file here; data sets of the hub are left for later."""
        if "hub" not in self.options:
            self.texts()

    def texts(self) -> Texts:
        """The three splits. Documents (files, records, rows) are joined by an empty line.

        Raises:
            DataError: a file or data set that is missing, unreadable, has no such field, or is too
                short to be divided; it is named.
        """
        if self._texts is None:
            self._texts = embedded(self.name) if self.embedded else self._read()
        return self._texts

    def _read(self) -> Texts:
        whole = "train" if "hub" in self.options else self.options.get("path")
        parts = self.parts or {"train": str(whole)}
        texts = {split: self._part(part, self.rows.get(split)) for split, part in parts.items()}
        if len(parts) < 3:
            what = str(self.options.get("hub", parts["train"]))
            texts.update(split_text(texts["train"], self.fractions, what))
        return texts

    def _part(self, part: str, rows: int | None) -> str:
        if "hub" not in self.options:
            return read_text(part, self.fields, rows)
        streaming = bool(self.options.get("streaming", rows is not None))
        repository = str(self.options["hub"])
        return read_rows(repository, part, self.options.get("config"), self.fields, rows, streaming)


def _rows(what: str, given: Any) -> dict[Split, int]:
    counts = given if isinstance(given, Mapping) else dict.fromkeys(SPLITS, given)
    found: dict[Split, int] = {}
    for split, count in counts.items():
        if split not in SPLITS:
            raise ConfigError(f"{what}.rows: unknown split '{split}'{nearest(split, SPLITS)}")
        if count is not None:
            if not isinstance(count, int) or count < 1:
                raise ConfigError(f"{what}.rows={count} must be whole numbers of at least 1")
            found[split] = count
    return found


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
    return cut(torch.as_tensor(tokenize(text), dtype=torch.long), length, what)


def cut(ids: Tensor, length: int, what: str) -> Tensor:
    """`windows` of a text's token ids (t,)."""
    n = len(ids) // length
    if n == 0:
        raise DataError(f"{what} has {len(ids)} tokens, fewer than one window of {length}")
    return ids[: n * length].view(n, length)


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of next tokens within windows, in nats: logits (B, W, V), ids (B, W).

    The last position predicts nothing, since the token after it belongs to the next window.
    """
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
