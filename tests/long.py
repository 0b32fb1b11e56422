"""Run the long tests and keep their last results in tests/LONG.md: `make test-long`.

`python tests/long.py FILES or other options of pytest` runs a part of them: its rows are replaced,
the others stay, each with the commit and the day that it was run on. Tests that fail are written
down as well. The file is committed by whoever ran them.
"""

import dataclasses
import datetime
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests" / "LONG.md"
HEADER = """\
# Last results of `make test-long`

Written by `tests/long.py`; a run of a part of the tests replaces its rows only. Seconds are of the
clock, the load is that of the last 15 minutes.

| file | test | result | seconds | day | commit | cores, load |
|---|---|---|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """The last result of one test; `told` are the lines of its output that are figures."""

    file: str
    test: str
    result: str
    seconds: str
    day: str
    commit: str
    load: str
    told: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.file, self.test

    @property
    def heading(self) -> str:
        return f"## {self.file}: {self.test}"

    def __str__(self) -> str:
        cells = dataclasses.astuple(self)[:-1]
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit() -> str:
    dirty = git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
    return git("rev-parse", "--short", "HEAD") + (" and changes" if dirty else "")


def outcome(case: ElementTree.Element) -> str:
    for tag, word in {"failure": "FAILED", "error": "ERROR", "skipped": "skipped"}.items():
        found = case.find(tag)
        if found is not None:
            reason = (found.get("message") or "").splitlines()[:1]
            return f"{word}: {reason[0][:200]}" if reason else word
    return "passed"


def ran(report: Path, at: str) -> list[Row]:
    """What pytest's report says of the tests that ran.

    Args:
        report: As JUnit's XML.
        at: The commit.
    """
    day = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    load = f"{len(os.sched_getaffinity(0))}, {os.getloadavg()[2]:.1f}"
    rows: dict[tuple[str, str], Row] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        told = (case.findtext("system-out") or "").splitlines()
        row = Row(
            str(case.get("classname")).replace(".", "/") + ".py",
            str(case.get("name")).replace("|", "/"),
            outcome(case),
            f"{float(case.get('time', 0)):.0f}",
            day,
            at,
            load,
            tuple(line for line in told if line.startswith(("|", "result: "))),
        )
        # An error while a test's fixtures end is a case of its own.
        if row.key not in rows or row.result != "passed":
            rows[row.key] = row
    return list(rows.values())


def kept(text: str) -> list[Row]:
    """The rows of the file as it was."""
    first, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    told = {}
    for section in sections:
        heading, *lines = section.strip().splitlines()
        told[heading] = tuple(line for line in lines if line)
    rows = []
    for line in first.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| tests/") and len(cells) == 7:
            file, test, result, seconds, day, at, load = cells
            row = Row(file, test, result, seconds, day, at, load)
            rows.append(dataclasses.replace(row, told=told.get(row.heading, ())))
    return rows


def merged(old: list[Row], new: list[Row], there: set[str]) -> str:
    """The file anew: new rows in place of their old ones, without tests that are no more.

    Args:
        old: Of the file as it was.
        new: Of this run.
        there: Names of the long tests that there are, as pytest gives them.
    """
    rows = {row.key: row for row in [*old, *new]}
    shown = sorted(
        (row for row in rows.values() if f"{row.file}::{row.test}" in there or row in new),
        key=lambda row: row.key,
    )
    parts = [HEADER + "".join(f"{row}\n" for row in shown)]
    parts += ["\n".join([row.heading, "", *row.told, ""]) for row in shown if row.told]
    return "\n".join(parts)


def collected() -> set[str]:
    command = [sys.executable, "-m", "pytest", "-m", "slow", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.replace("|", "/") for line in done.stdout.splitlines() if "::" in line}


def main() -> int:
    at, there = commit(), collected()
    print(
        f"{len(there)} long tests on {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-m", "slow", f"--junitxml={report}"]
        done = subprocess.run(
            [*command, "-o", "junit_logging=system-out", *sys.argv[1:]], cwd=ROOT, check=False
        )
        if not report.is_file():
            return done.returncode
        new = ran(report, at)
    aside = RESULTS.with_suffix(".writing")
    aside.write_text(merged(kept(RESULTS.read_text()) if RESULTS.exists() else [], new, there))
    aside.replace(RESULTS)
    print(f"Results of {len(new)} tests are in {RESULTS.relative_to(ROOT)}; commit it.")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
