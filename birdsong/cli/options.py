"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from birdsong.runs.step_process import Limits

RunsFolder = Annotated[
    Path,
    typer.Option("--runs", metavar="DIR", help="Folder of all runs.", envvar="BIRDSONG_RUNS"),
]
"""`--runs DIR`."""

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan; start nothing.")]
"""`--dry-run`."""

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
"""`--yes`."""

StepTimeout = Annotated[
    float | None,
    typer.Option(metavar="MINUTES", help="Minutes after which a step is ended. Default: none."),
]
"""`--step-timeout MINUTES`."""

StepMemory = Annotated[
    float | None,
    typer.Option(
        metavar="GB",
        help="Memory of a step's processes together, in 10^9 bytes without file cache, above "
        "which it is ended. Default: none.",
    ),
]
"""`--step-memory GB`."""


def limits(step_timeout: float | None, step_memory: float | None) -> "Limits":
    """The two limits of steps.

    Raises:
        ConfigError: One is not above zero.
    """
    from birdsong.errors import ConfigError
    from birdsong.runs.step_process import Limits

    for name, value in (("--step-timeout", step_timeout), ("--step-memory", step_memory)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name} {value:g}: needs a number above 0.")
    return Limits(
        None if step_timeout is None else step_timeout * 60,
        None if step_memory is None else round(step_memory * 1e9),
    )
