"""Small pipelines for tests of the engine; as a program it runs one of them.

`python small_pipelines.py NAME RUNS [ARGUMENTS as JSON]` prints the id of the run and ends as
`birdsong run` does: 0, 1 or 130.
"""

import json
import sys
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Output

IMAGE = "python:3.11"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def make(
    out: Output[Dataset], page: Output[HTML], metrics: Output[Metrics], text: str, number: int
) -> str:
    """Write a text, a page and a number.

    Returns:
        out: The text.
        page: A page.
        metrics: The number.
    """
    from pathlib import Path

    from birdsong import progress

    for _ in progress.track(range(4), 4, "count", "things", every_seconds=0):
        pass
    Path(out.path).write_text(text)
    Path(page.path).write_text("<p>page</p>")
    metrics.log_metric("number", number)
    return text


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def read(data: Input[Dataset], text: str, how: str) -> str:
    """Read a text, or end in one of many ways."""
    import os
    import signal
    import sys
    from pathlib import Path

    from birdsong.errors import DataError

    if how == "birdsong":
        raise DataError("no birds: neither here\nnor there. Add some.")
    if how == "other":
        raise KeyError("wing")
    if how == "exit":
        print("one last word")
        sys.stdout.flush()
        os._exit(3)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return Path(data.path).read_text() + text


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def last(text: str) -> str:
    """Pass a text on."""
    return text


@dsl.pipeline(name="chain")
def chain(text: str = "song", number: int = 7, how: str = "well") -> None:
    made = make(text=text, number=number)
    got = read(data=made.outputs["out"], text=made.outputs["Output"], how=how)
    last(text=got.output)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def wait(folder: str, stubborn: bool) -> None:
    """Start a child in a session of its own, say so, and wait for a minute."""
    import os
    import signal
    import subprocess
    import sys
    import time
    from pathlib import Path

    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else ""
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = f"{ignore}import time; print('up', flush=True); time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE
    )
    child.stdout.readline()
    Path(folder, "aside").write_text(f"{os.getpid()} {child.pid}")
    Path(folder, "aside").rename(Path(folder, "started"))
    time.sleep(60)


@dsl.pipeline(name="waiting")
def waiting(folder: str, stubborn: bool = False) -> None:
    last(text="x").after(wait(folder=folder, stubborn=stubborn))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def leave(folder: str) -> None:
    """End, but leave a process behind."""
    import subprocess
    import sys
    from pathlib import Path

    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    Path(folder, "left").write_text(str(child.pid))


@dsl.pipeline(name="leaving")
def leaving(folder: str) -> None:
    leave(folder=folder)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def forget(out: Output[Dataset]) -> None:
    """Make nothing."""


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def nothing(data: Input[Dataset]) -> None:
    """Take what should have been made."""


@dsl.pipeline(name="forgetting")
def forgetting() -> None:
    nothing(data=forget().outputs["out"])


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def stumble(folder: str) -> str:
    """Fail at the first attempt."""
    from pathlib import Path

    mark = Path(folder, "tried")
    if not mark.exists():
        mark.touch()
        raise OSError("first attempt")
    return "second attempt"


@dsl.pipeline(name="stumbling")
def stumbling(folder: str) -> None:
    stumble(folder=folder).set_retry(2, backoff_duration="1s", backoff_factor=1.0)


@dsl.pipeline(name="choosing")
def choosing(text: str = "a") -> None:
    with dsl.If(text == "a"):
        last(text="then")
    with dsl.Else():
        last(text="else")


def main(name: str, runs: str, arguments: dict[str, Any]) -> int:
    from birdsong.runs import engine, signals
    from birdsong.runs.record import State

    with signals.listening() as cancel:
        run = engine.execute(globals()[name], arguments, runs, cancel=cancel)
    print(run.id)
    return {State.SUCCEEDED: 0, State.CANCELLED: 130}.get(run.state, 1)


if __name__ == "__main__":
    given = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    sys.exit(main(sys.argv[1], str(Path(sys.argv[2]).absolute()), given))
