"""A real run whose second step waits for a file, so that a test can watch it at work.

`python gated_pipeline.py RUNS FOLDER` ends as `birdsong run` does; the file is FOLDER/go.
"""

import sys
from pathlib import Path

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Output

IMAGE = "python:3.11"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def make(out: Output[Dataset], page: Output[HTML], metrics: Output[Metrics], text: str) -> None:
    """Write a text and a page."""
    from pathlib import Path

    Path(out.path).write_text(text)
    Path(page.path).write_text("<p>a page</p>")
    metrics.log_metric("number", 7)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def hold(data: Input[Dataset], folder: str) -> str:
    """Say that it waits, wait for the file, say how it went on."""
    import time
    from pathlib import Path

    from birdsong import progress

    progress.tell("wait", 1, 2, "things")
    deadline = time.monotonic() + 100
    while not Path(folder, "go").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody said go")
        time.sleep(0.05)
    print("a wren is heard", flush=True)
    return Path(data.path).read_text()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def last(text: str) -> str:
    """Pass a text on."""
    return text


@dsl.pipeline(name="gated")
def gated(folder: str, text: str = "song") -> None:
    held = hold(data=make(text=text).outputs["out"], folder=folder)
    last(text=held.output)


if __name__ == "__main__":
    from birdsong.runs import engine
    from birdsong.runs.record import State

    run = engine.execute(gated, {"folder": sys.argv[2]}, str(Path(sys.argv[1]).absolute()))
    sys.exit(0 if run.state == State.SUCCEEDED else 1)
