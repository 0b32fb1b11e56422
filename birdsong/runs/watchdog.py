"""Ends what is left of a run's steps when the engine is killed without a chance to do so itself.

Started once per run with the run's mark; its standard input is a pipe whose other end only the
engine holds. A line on it means that all is well; its end without one, that the engine is dead.
Standard library only, so that it starts in a few milliseconds:
`python -S -E watchdog.py MARK TEMPORARY_FOLDER [docker]`.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def watching(mark: str, also: Sequence[str] = ()) -> Iterator[None]:
    """Should this process be killed while the context lasts, another one ends the steps.

    Args:
        mark: How they are known.
        also: "docker", where they are containers.
    """
    import subprocess
    import tempfile

    dog = subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, mark, tempfile.gettempdir(), *also],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=os.sep,
    )
    assert dog.stdin is not None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            dog.stdin.write(b"\n")
            dog.stdin.close()
        dog.wait()


def main() -> None:
    """Wait for the engine's word or its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not sys.stdin.buffer.read(1):
        import importlib.util
        import shutil

        # By file, so that the packages around it (pydantic, kfp) are not imported.
        place = Path(__file__).with_name("processes.py")
        spec = importlib.util.spec_from_file_location("processes", place)
        if spec is None or spec.loader is None:
            raise SystemExit(f"{place} is missing")
        processes = importlib.util.module_from_spec(spec)
        sys.modules["processes"] = processes
        spec.loader.exec_module(processes)
        processes.end(sys.argv[1], grace_seconds=1.0)
        if "docker" in sys.argv[3:]:
            import subprocess

            subprocess.run(
                [sys.executable, "-m", "birdsong.runs.containers", sys.argv[1]],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                check=False,
            )
        for scratch in Path(sys.argv[2]).glob(f"birdsong-{sys.argv[1]}-*"):
            shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
