"""`score`: how well a model hears labelled soundscapes."""

from pathlib import Path
from typing import Annotated

import typer

from birdsong.cli.model import CHAMPION, BundleFolder, Model, Registry, Runtime, find
from birdsong.cli.options import DryRun, RunsFolder
from birdsong.errors import ConfigError


def score(
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS.csv",
            help="Labelled windows of 5 s, in the form of BirdCLEF 2021's "
            "train_soundscape_labels.csv: row_id, site, audio_id, seconds (at which the window "
            "ends), birds (eBird codes, or nocall).",
        ),
    ],
    audio: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the recordings, named by audio_id; by default that of LABELS.csv.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Score above which a species counts as heard in a window of 5 s; by default one "
            "is chosen for each part of the recordings on the other parts.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write. Must not exist.")] = None,
    html: Annotated[Path | None, typer.Option(help="Page to write. Must not exist.")] = None,
    seed: Annotated[int, typer.Option(help="Of the parts and of the intervals.")] = 0,
    bundle: BundleFolder = None,
    model: Model = CHAMPION,
    registry: Registry = "",
    runs: RunsFolder = Path("runs"),
    runtime: Runtime = "auto",
    dry_run: DryRun = False,
) -> None:
    """Score a model on labelled soundscapes: row-wise F1, cmAP, and each species.

    Windows are scored alone, whatever their neighbours hold. The model's own thresholds are for
    windows of up to 60 s, so they are shown beside, not used.
    """
    from birdsong import artifacts, soundscapes
    from birdsong.frame_metrics import read_frame_labels
    from birdsong.report_words import many

    for place in (out, html):
        if place is not None and place.exists():
            raise ConfigError(f"{place} is there already. Give another name, or move it away.")
    table = read_frame_labels(labels)
    files = soundscapes.find_recordings(table, labels, audio)
    if dry_run:
        typer.echo(
            f"{many(len(table.birds), 'labelled window')} in {many(len(files), 'recording')}; "
            "nothing was listened to."
        )
        return
    from birdsong import soundscape_pages, soundscape_score
    from birdsong.bundle import read_bundle, verify_bundle
    from birdsong.scoring import load_scorer

    folder, version = find(bundle, model, registry, runs)
    verify_bundle(folder)
    scorer = load_scorer(folder, runtime)
    loaded = read_bundle(folder, scorer.runtime)
    found = soundscape_score.of_bundle(loaded, scorer, labels, audio, threshold, seed)
    found["model"]["version"] = version
    typer.echo(soundscape_pages.text(found))
    if out is not None:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(out, found)
    if html is not None:
        html.absolute().parent.mkdir(parents=True, exist_ok=True)
        named = loaded.name if version is None else f"{loaded.name} version {version}"
        soundscape_pages.write(html, f"{labels.name}: {named}", found)
