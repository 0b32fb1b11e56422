"""`predict`: which birds are heard in many recordings, as a table."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birdsong.cli.model import CHAMPION, BundleFolder, Model, Registry, Runtime, find
from birdsong.cli.options import DryRun, RunsFolder

if TYPE_CHECKING:
    from birdsong.predict import Outcome, Rule


def predict(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Recordings: files, folders, zips, s3://bucket/prefix or gs://bucket/prefix.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="File to write: .csv, .parquet or .txt (Raven). Must not exist."),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="csv, parquet, raven or audacity (a folder of labels); by default by the ending.",
        ),
    ] = "",
    min_probability: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Count a species from this calibrated probability on, instead of from the "
            "model's thresholds, which keep a false-positive rate.",
        ),
    ] = None,
    species: Annotated[
        str, typer.Option(help="eBird codes to look for: comma-separated, or a file of them.")
    ] = "",
    overlap: Annotated[
        float,
        typer.Option(min=0, help="Seconds by which windows of up to 60 s overlap."),
    ] = 0.0,
    bundle: BundleFolder = None,
    model: Model = CHAMPION,
    registry: Registry = "",
    runs: RunsFolder = Path("runs"),
    runtime: Runtime = "auto",
    dry_run: DryRun = False,
) -> None:
    """Listen to recordings of any length and write which birds are heard in them.

    A decision is made for each window of up to 60 s; a row tells the 5-second frame with its
    highest score. Recordings that cannot be used are listed in OUT.problems.csv. After a kill, the
    same command goes on where it was.
    """
    from birdsong import predict as library
    from birdsong.bundle import read_bundle, verify_bundle
    from birdsong.detections import format_of
    from birdsong.runs.plan import size
    from birdsong.scoring import load_scorer

    rule = library.Rule(min_probability, _codes(species), overlap)
    format_of(out, format_)
    if dry_run:
        files = library.find(places)
        total = sum(file.size for _, file in files)
        typer.echo(f"{len(files):,} recordings, {size(total)}; nothing was listened to.")
        return
    folder, _ = find(bundle, model, registry, runs)
    verify_bundle(folder)
    scorer = load_scorer(folder, _begun(folder, out, rule) if runtime == "auto" else runtime)
    loaded = read_bundle(folder, scorer.runtime)
    started = time.monotonic()
    with _Bar() as bar:
        outcome = library.predict(places, out, loaded, lambda: scorer, rule, format_, bar.show)
    typer.echo(_told(outcome, out, time.monotonic() - started))


def _begun(folder: Path, out: Path, rule: "Rule") -> str:
    """Goes on with the runtime of an earlier try; the choice could fall on another one by now."""
    from birdsong import predict, runtimes
    from birdsong.bundle import bundle_sha256

    names = runtimes.admitted(folder)
    begun = predict.begun_with(out, bundle_sha256(folder), names, rule)
    if not begun:
        return "auto"
    if lacks := runtimes.lacking(begun):
        typer.echo(
            f"An earlier try used {begun}, which cannot be used here ({lacks}), so all recordings "
            "are listened to again.",
            err=True,
        )
        return "auto"
    return begun


def _codes(text: str) -> frozenset[str]:
    if not text:
        return frozenset()
    if Path(text).is_file():
        text = Path(text).read_text(encoding="utf-8")
    return frozenset(text.replace(",", " ").split())


def _told(outcome: "Outcome", out: Path, seconds: float) -> str:
    from birdsong.predict import problems_of
    from birdsong.runs.plan import duration

    found = sum(outcome.detections.values())
    lines = [
        f"{outcome.recordings:,} recordings, {found:,} detections of "
        f"{len(outcome.detections):,} species: {out}"
    ]
    if outcome.audio_seconds:
        lines.append(
            f"{duration(outcome.audio_seconds)} of sound in {duration(seconds)}, "
            f"{outcome.audio_seconds / seconds:.0f} times real time"
        )
    if outcome.resumed:
        lines.append(f"{outcome.resumed:,} recordings were done by an earlier try.")
    if outcome.problems:
        name, reason = outcome.problems[0]
        lines.append(
            f"{len(outcome.problems):,} recordings could not be used, such as {name}: {reason} "
            f"All of them: {problems_of(out)}"
        )
    return "\n".join(lines)


class _Bar:
    """A live bar with the real-time factor, where somebody looks."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("listen"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:,}/{task.total:,} recordings{task.fields[factor]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._started = time.monotonic()

    def __enter__(self) -> "_Bar":
        self._bar.start()
        self._task = self._bar.add_task("listen", total=1, factor="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int, audio_seconds: float) -> None:
        """Show how far it is."""
        factor = audio_seconds / max(time.monotonic() - self._started, 1e-3)
        self._bar.update(
            self._task, completed=done, total=total, factor=f", {factor:.0f} x real time"
        )
