"""What tune writes, wherever its trials ran: the chosen values and the trials; or given ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from birdsong import artifacts, cost, hyperparameters, search_page
from birdsong.config import Hyperparameters, TuneConfig


def write(
    path: str | Path,
    development_path: str | Path,
    tune: TuneConfig,
    chosen: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
    spent: cost.Part,
) -> None:
    """Write the artifact of tune.

    Args:
        path: Where it goes.
        development_path: The features that the trials saw.
        tune: Settings of the search.
        chosen: The values that train gets.
        trials: Rows of `trials.json`, empty where no search was asked for.
        spent: What the search cost.
    """
    with artifacts.create(
        path, "hyperparameters", tune, {"development": development_path}
    ) as folder:
        artifacts.write_json(folder.path / hyperparameters.FILE, chosen)
        artifacts.write_json(folder.path / "trials.json", trials)
        cost.note(folder.path, spent)


def pass_on(
    path: str | Path,
    history_path: str | Path,
    development_path: str | Path,
    tune: TuneConfig,
    start: Hyperparameters,
) -> dict[str, float]:
    """Write the given values, where no search is asked for; returns the counts of trials."""
    artifacts.read_spec(development_path, "features")
    nothing = cost.Part(step=cost.TUNE, machine="", seconds=0, trials=0)
    write(path, development_path, tune, start.model_dump(mode="json"), [], nothing)
    search_page.write(history_path, start.model_dump(), [], {}, None, tune)
    return {"trials_finished": 0.0, "trials_pruned": 0.0, "trials_failed": 0.0}
