"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RunsFolder = Annotated[
    Path,
    typer.Option("--runs", metavar="DIR", help="Folder of all runs.", envvar="BIRDSONG_RUNS"),
]
"""`--runs DIR`."""
