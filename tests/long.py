"""Run the long tests and keep their last results in tests/LONG.md: `make test-long`.

The file is written also when tests fail, and says so; it is committed by whoever ran them.
"""

import datetime
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests" / "LONG.md"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine() -> str:
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{len(os.sched_getaffinity(0))} CPU cores, {memory:.0f} GiB, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}"
    )


def outcome(case: ElementTree.Element) -> str:
    for word in ("failure", "error", "skipped"):
        found = case.find(word)
        if found is not None:
            reason = (found.get("message") or "").splitlines()[:1]
            name = {"failure": "FAILED", "error": "ERROR", "skipped": "skipped"}[word]
            return f"{name}: {reason[0][:200]}" if reason else name
    return "passed"


def page(report: Path, commit: str, load: tuple[float, ...]) -> str:
    suite = ElementTree.parse(report).getroot()
    cases = list(suite.iter("testcase"))
    seconds = sum(float(case.get("time", 0)) for case in cases)
    bad = sum(outcome(case).startswith(("FAILED", "ERROR")) for case in cases)
    skipped = sum(outcome(case).startswith("skipped") for case in cases)
    lines = [
        "# Last results of `make test-long`",
        "",
        "Written by `tests/long.py`, also when tests fail.",
        "",
        f"- {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, commit {commit}",
        f"- {shlex.join(['pytest', '-m', 'slow', *sys.argv[1:]])}",
        f"- {machine()}; load of the last 15 minutes {load[2]:.1f}",
        f"- {len(cases)} tests in {seconds / 60:.1f} min: {len(cases) - bad - skipped} passed, "
        f"{bad} failed, {skipped} skipped",
        "",
        "| test | result | seconds |",
        "|---|---|---|",
    ]
    tables = []
    for case in cases:
        name = str(case.get("name")).replace("|", "\\|")
        lines.append(f"| {name} | {outcome(case)} | {float(case.get('time', 0)):.0f} |")
        told = (case.findtext("system-out") or "").splitlines()
        kept = [line for line in told if line.startswith(("|", "result: "))]
        if kept:
            tables += ["", f"## {name}", "", *kept]
    return "\n".join([*lines, *tables, ""])


def main() -> int:
    commit = git("rev-parse", "--short", "HEAD")
    if git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}"):
        commit += " with changes that are not committed"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-m", "slow", f"--junitxml={report}"]
        done = subprocess.run(
            [*command, "-o", "junit_logging=system-out", *sys.argv[1:]], cwd=ROOT, check=False
        )
        if not report.is_file():
            return done.returncode
        text = page(report, commit, os.getloadavg())
    aside = RESULTS.with_suffix(".writing")
    aside.write_text(text)
    aside.replace(RESULTS)
    print(f"Results are in {RESULTS.relative_to(ROOT)}; commit it.")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
