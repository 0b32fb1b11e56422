"""`runs gc`: make room, without taking anything away that a kept run needs."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from birdsong.cli.options import DryRun, RunsFolder, Yes
from birdsong.errors import ConfigError


def gc(
    keep: Annotated[int, typer.Option(min=0, help="The newest runs that stay in any case.")] = 10,
    older_than: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", min=0, help="Only runs that ended longer ago than this. Default: any."
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    runs: RunsFolder = Path("runs"),
) -> int:
    """Remove old runs and leftovers; outputs that a kept run reuses stay, wherever they are.

    Running runs and the run of a version with an alias (champion) are always kept. Leftovers, of
    processes that were killed and of the page, go when they are older than an hour.
    """
    from birdsong.runs import containers, record
    from birdsong.runs import gc as collecting
    from birdsong.runs.plan import size

    place = runs.absolute()
    if not place.is_dir():
        raise ConfigError(f"There is no folder {runs}. Name another --runs folder.")
    plan = collecting.make(place, keep=keep, older_than_days=older_than)
    typer.echo(collecting.as_text(plan))
    left = containers.left_if_any(place, record.list_runs(place))
    if left:
        typer.echo(f"left-over containers of runs that are over: {', '.join(left)}")
    if dry_run or (plan.empty and not left):
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("Nothing was removed: nobody is there to ask. Add --yes.")
        if not typer.confirm("Remove them?", default=False):
            return 0
    if left:
        with contextlib.closing(containers.connect()) as client:
            typer.echo(f"Removed {containers.sweep(client, place)} containers.")
    done = collecting.remove(plan, place, keep=keep, older_than_days=older_than)
    typer.echo(
        f"Removed {size(done.bytes)}: of {len(done.removals)} runs, and {len(done.leftovers)} "
        "leftovers."
    )
    return 0
