"""Ends what is left of a run's steps when the engine is killed without a chance to do so itself.

Started once per run with the run's mark; its standard input is a pipe whose other end only the
engine holds. A line on it means that all is well; its end without one, that the engine is dead.
Standard library only, so that it starts in a few milliseconds:
`python -S -E watchdog.py MARK TEMPORARY_FOLDER`.
"""

import signal
import sys


def main() -> None:
    """Wait for the engine's word or its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not sys.stdin.buffer.read(1):
        import importlib.util
        import shutil
        from pathlib import Path

        # By file, so that the packages around it (pydantic, kfp) are not imported.
        place = Path(__file__).with_name("processes.py")
        spec = importlib.util.spec_from_file_location("processes", place)
        if spec is None or spec.loader is None:
            raise SystemExit(f"{place} is missing")
        processes = importlib.util.module_from_spec(spec)
        sys.modules["processes"] = processes
        spec.loader.exec_module(processes)
        processes.end(sys.argv[1], grace_seconds=1.0)
        for scratch in Path(sys.argv[2]).glob(f"birdsong-{sys.argv[1]}-*"):
            shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
