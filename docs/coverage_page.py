"""Keeps docs/coverage.md, the users' specification row by row, in step with the tests that show each row.

    python docs/coverage_page.py

The rows stand in the page itself; their last column is filled in from ``tests/coverage/*.txt``, whose lines say
``ROW tests/file.py::test_name``, or ``ROW remark`` for rows that ask for nothing that could run.
``tests/test_docs.py`` checks that the page is current and that the tests exist.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGE = DOCS / "coverage.md"
_ROW = re.compile(r"^\| ([A-Z]{1,2}\d+) \|")
OPEN, REMARK = "open", "remark"


def named_tests() -> dict[str, list[str]]:
    """The tests by row."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests" / "coverage").glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                row, test = line.split()[:2]
                known = found.setdefault(row, [])
                if test not in known:
                    known.append(test)
    return found


def rendered(text: str) -> str:
    """The page with its last column and its counts brought up to date."""
    tests = named_tests()
    lines, done, remarks, rows = [], 0, 0, 0
    for line in text.splitlines():
        match = _ROW.match(line)
        if match:
            rows += 1
            cells = line.rstrip().removesuffix("|").split(" | ")
            shown = tests.get(match[1], [])
            remark = shown == [REMARK]
            remarks += remark
            done += bool(shown) and not remark
            cells[-1] = "a remark" if remark else ", ".join(f"`{t.removeprefix('tests/')}`" for t in shown[:3]) or OPEN
            line = " | ".join(cells) + " |"
        lines.append(line)
    words = f"{done} of {rows} rows have a test that shows them, {remarks} are remarks."
    counted = re.sub(r"^\d+ of \d+ rows .*$", words, "\n".join(lines), flags=re.M)
    return counted + "\n"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
