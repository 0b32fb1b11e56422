"""Records of runs whose folder was moved or copied since: places in it are those of the new folder.

A record names places as they were when the run was made. What lies below the runs folder is looked
for below the one that holds the record now, and stays as it was written where nothing is there.
"""

from pathlib import Path
from typing import Any


def follow(document: dict[str, Any], folder: Path) -> None:
    """Change the places of a record, in place.

    Args:
        document: The record as it is in the file.
        folder: Where the run is now.
    """
    written = document.get("folder")
    if not isinstance(written, str) or Path(written) == folder:
        return
    roots = [(written, str(folder)), (str(Path(written).parent), str(folder.parent))]

    def new(place: Any) -> Any:
        for before, after in roots:
            if isinstance(place, str) and place.startswith(f"{before}/"):
                there = after + place[len(before) :]
                return there if Path(there).exists() else place
        return place

    for step in document["steps"]:
        step["log"] = new(step.get("log"))
        for value in (*step.get("inputs", {}).values(), *step.get("outputs", {}).values()):
            for item in value.get("items", [value]):
                for name in ("uri", "path"):
                    if name in item:
                        item[name] = new(item[name])
    arguments, scheme = document.get("arguments", {}), "sqlite:///"
    for name, value in arguments.items():
        if isinstance(value, str) and value.startswith(scheme):
            arguments[name] = scheme + new(value.removeprefix(scheme))
