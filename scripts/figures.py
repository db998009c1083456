"""Numbers in the sentences of pages, looked up in the results that they come from.

    python scripts/figures.py [FILE…]

A number with decimals in README.md or a page under docs/, outside of code, formulas and quoted
tables (`scripts/quote.py`), must be one of the results that its section names, rounded as it is
there: of the tables (``frontrunner table PAPER/TABLE``), of the files under ``results/`` that are
linked or quoted, and of the benchmarks (``benchmarks/NAME.py``). What is not is listed on the page:
``<!-- constants: 0.1 1.3 -->``, what methods, data and papers have, and ``<!-- by hand: 27.7 -->``,
what was measured and is in no file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# 0.13, 1,234.5, 1.2e-7, and neither a version 1.2.3 nor Apache-2.0.
NUMBER = re.compile(
    r"(?<![\w.])(?<![\w]-)(\d+(?:,\d{3})*\.\d+(?:e[+-]?\d+)?)(?![\w.]*\d)", re.ASCII
)
FILE = re.compile(r"(?:experiments|benchmarks)/[\w/.-]+\.(?:md|json)")
COMMAND = re.compile(r"frontrunner table ([^`]*`(?:[\s,]*(?:and|with)?\s*`[\w/|]+`)*)")
LISTED = re.compile(r"<!-- (constants|by hand):([^>]*?)-->")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.S | re.M)
LEFT_OUT = re.compile(
    r"<!-- quote .*?<!-- end of quote -->|<!--.*?-->|\$[^$\n]*\$|\]\([^)]*\)|^#.*?$", re.S | re.M
)


def main() -> int:
    """Say which numbers are in no result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    wrong = by_hand = looked_up = 0
    for page in options.files or pages(ROOT):
        text = page.read_text(encoding="utf-8")
        found, unknown, unused = check(text, ROOT)
        looked_up += found
        by_hand += len(listed(text)["by hand"])
        wrong += len(unknown) + len(unused)
        for number, around in unknown:
            print(f"{page}: {number} is in no result that its section names: …{around}…")
        for number in unused:
            print(f"{page}: {number} is listed, and is not on the page or in a result")
    print(f"{looked_up} numbers found in results, {by_hand} by hand", file=sys.stderr)
    return 1 if wrong else 0


def pages(root: Path) -> list[Path]:
    """README.md and docs/, without the records of decisions, which stay as they were."""
    rest = [p for p in sorted((root / "docs").rglob("*.md")) if p.parent.name != "adr"]
    return [root / "README.md", *rest]


def check(text: str, root: Path) -> tuple[int, list[tuple[str, str]], list[str]]:
    """How many numbers of a page its results have, which neither they nor its lists have, with
    the words around, and which are listed for nothing."""
    lists = listed(text)
    known = set().union(*lists.values())
    used: set[str] = set()
    found, unknown = 0, []
    for section in re.split(r"^(?=## )", text, flags=re.M):
        results: list[float] | None = None
        for number, around in written(section):
            if results is None:
                results = [x for file in named(section, root) for x in numbers(file)]
            if is_one_of(number, results):
                found += 1
            elif number in known:
                used.add(number)
            else:
                unknown.append((number, around))
    return found, unknown, sorted(known - used)


def listed(text: str) -> dict[str, set[str]]:
    """The numbers that a page lists, by kind."""
    lists: dict[str, set[str]] = {"constants": set(), "by hand": set()}
    for kind, words in LISTED.findall(CODE.sub(" ", text)):
        lists[kind].update(words.split())
    return lists


def written(section: str) -> Iterator[tuple[str, str]]:
    """Every number of its sentences and tables, without a sign, and the words around it."""
    bare = LEFT_OUT.sub(" ", CODE.sub(" ", section))
    for match in NUMBER.finditer(bare):
        around = bare[max(0, match.start() - 40) : match.end() + 30]
        yield match[1], " ".join(around.split())


def named(section: str, root: Path) -> set[Path]:
    """The files of results that a section names."""
    files = {root / path for path in FILE.findall(section)}
    for words in COMMAND.findall(section):
        tables = re.findall(r"[\w/|]+", words)
        paper = tables[0].partition("/")[0]
        for name in (name for words in tables for name in words.rpartition("/")[2].split("|")):
            files.add(root / "experiments" / paper / "results" / f"{name}.md")
    for program in re.findall(r"benchmarks/(\w+)\.py", section):
        files.update((root / "benchmarks" / "results").glob(f"{program}*"))
    return {file for file in files if file.is_file()}


def numbers(file: Path) -> list[float]:
    """Every number of a file; of JSON hundredfold too, where pages have a share in percent."""
    words = re.findall(r"\d[\d,]*\.?\d*(?:e[+-]?\d+)?", file.read_text(encoding="utf-8"))
    found = [float(word.replace(",", "")) for word in words]
    return found + [100 * x for x in found if file.suffix == ".json"]


def is_one_of(number: str, results: list[float]) -> bool:
    """Whether one of them is this number when rounded to its digits."""
    digits, _, exponent = number.replace(",", "").partition("e")
    half = 0.5001 * 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return any(abs(x - float(number.replace(",", ""))) <= half for x in results)


if __name__ == "__main__":
    sys.exit(main())
