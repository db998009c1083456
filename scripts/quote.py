"""Keep the tables that pages quote as they were computed.

    python scripts/quote.py [--check] [FILE…]

A quote stands between two comments, ``<!-- quote PATH [table=N] [rows=A|B] [columns=C|D] -->`` and
``<!-- end of quote -->``: the N-th table of a Markdown file, or some of its rows and columns.
Without files README.md and all pages under docs/ are gone through; ``--check`` changes nothing and
fails where a page says something else than the file.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUOTE = re.compile(
    r"(?P<head><!-- quote (?P<what>[^\n]*?) -->\n)(?P<body>.*?)(?P<end><!-- end of quote -->)", re.S
)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.S | re.M)


class QuoteError(Exception):
    """A quote of something that is not there."""


def main() -> int:
    """Rewrite or check the quotes of the pages asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    pages = options.files or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    wrong, count = [], 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        try:
            new, here = rewritten(text, ROOT)
        except QuoteError as error:
            wrong.append(f"{page}: {error}")
            continue
        count += here
        if new != text and options.check:
            wrong.append(f"{page}: a quote differs from its file; `make quotes` mends it")
        elif new != text:
            page.write_text(new, encoding="utf-8")
            print(page)
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{count} quotes in {len(pages)} pages", file=sys.stderr)
    return 1 if wrong else 0


def rewritten(text: str, root: Path) -> tuple[str, int]:
    """A page with every quote as its file has it, and how many there are; code blocks are left."""
    fences = [match.span() for match in FENCE.finditer(text)]
    count = 0

    def quoted(match: re.Match[str]) -> str:
        nonlocal count
        if any(a <= match.start() < b for a, b in fences):
            return match[0]
        count += 1
        return f"{match['head']}\n{quote(match['what'], root)}\n\n{match['end']}"

    return QUOTE.sub(quoted, text), count


def quote(what: str, root: Path) -> str:
    """The table that ``PATH [table=N] [rows=…] [columns=…]`` stands for."""
    path, *words = shlex.split(what)
    options = dict(word.partition("=")[::2] for word in words)
    if unknown := set(options) - {"table", "rows", "columns"}:
        raise QuoteError(f"unknown option '{unknown.pop()}' in 'quote {what}'")
    file = root / path
    if not file.is_file():
        raise QuoteError(f"{path} does not exist")
    tables = _tables(file.read_text(encoding="utf-8"))
    number = int(options.get("table", 1))
    if not 1 <= number <= len(tables):
        raise QuoteError(f"{path} has {len(tables)} tables, not {number}")
    head, *rows = tables[number - 1]
    columns = _chosen(head, options.get("columns"), path, lambda cell: cell)
    wanted = options.get("rows")
    if wanted and set(wanted.split("|")) <= {row[1] for row in rows if len(row) > 1}:
        # Rows of every panel, which the first cell names.
        rows = [row for row in rows if row[1] in wanted.split("|")]
    else:
        rows = [rows[i] for i in _chosen(rows, wanted, path, lambda row: row[0])]
    lines = [[row[j] for j in columns] for row in [head, *rows]]
    rule = ["---", *("---:" for _ in columns[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _chosen(
    there: Sequence, wanted: str | None, path: str, name: Callable[[object], str]
) -> list[int]:
    """Index of each wanted one, the first column always; all where none is named."""
    if wanted is None:
        return list(range(len(there)))
    names = [name(one) for one in there]
    first = [0] if isinstance(there[0], str) else []
    for word in wanted.split("|"):
        if word not in names:
            raise QuoteError(f"{path} has no '{word}'; there are: {', '.join(names)}")
    found = [i for word in wanted.split("|") for i, other in enumerate(names) if other == word]
    return [*first, *(i for i in found if i not in first)]


def _tables(text: str) -> list[list[list[str]]]:
    """Every table of a Markdown text: lines of cells, the head first, without the rule."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not inside:
            found.append([])
            inside = True
        if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            found[-1].append(cells)
    return found


if __name__ == "__main__":
    sys.exit(main())
