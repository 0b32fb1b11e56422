"""A pipeline of one step that tells what it sees: user, folders, environment; also a program.

`python peeking_pipeline.py RUNS SOURCE` prints what the step saw as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

from kfp import dsl

from components import images


@dsl.component(base_image=images.DATA, install_kfp_package=False)
def peek(source: str, how: str) -> str:
    """Look around."""
    import json
    import os
    import time
    from pathlib import Path

    def can_write(folder: str) -> bool:
        try:
            (Path(folder) / "probe").write_text("")
            (Path(folder) / "probe").unlink()
        except OSError:
            return False
        return True

    if how == "child killed":
        os.abort()
    if how.startswith("exit "):
        os._exit(int(how.removeprefix("exit ")))
    if how == "fat":
        held = [bytearray(50_000_000) for _ in range(20)]
        time.sleep(len(held))
    if how == "long":
        time.sleep(600)
    places = ["/", "/opt/birdsong", "/opt/venv", "/tmp", "/root", "/var/tmp"]  # noqa: S108
    if source and "://" not in source:
        places.append(source)
    status = Path("/proc/self/status").read_text()
    return json.dumps(
        {
            "uid": os.getuid(),
            "gid": os.getgid(),
            "home": str(Path.home()),
            "environment": dict(os.environ),
            "writable": [place for place in places if can_write(place)],
            "source": sorted(x.name for x in Path(source).iterdir()) if len(places) == 7 else [],
            "capabilities": next(x for x in status.splitlines() if x.startswith("CapEff")),
            "new_privileges": "NoNewPrivs:\t1" not in status,
        }
    )


@dsl.pipeline(name="peeking")
def peeking(source: str = "", how: str = "well") -> None:
    peek(source=source, how=how)


def run(runs: Path, source: str = "", how: str = "well", **more: Any) -> Any:
    """One run in a container; the record."""
    from birdsong.runs import engine, graph, runners

    values = {"source": source, "how": how}
    runner = runners.make("docker", graph.as_ir(peeking), values, runs)
    return engine.execute(peeking, values, runs, runner=runner, **more)


def seen(record: Any) -> dict[str, Any]:
    """What the step saw."""
    found: dict[str, Any] = json.loads(record.steps["peek"].outputs["Output"]["value"])
    return found


if __name__ == "__main__":
    print(json.dumps(seen(run(Path(sys.argv[1]), sys.argv[2]))))
