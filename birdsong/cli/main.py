"""Entry to the command line: the groups of commands, errors as one clear text, exit codes."""

import os
import signal
import sys
from types import FrameType

import typer

from birdsong.cli import compile as compiling
from birdsong.cli import (
    doctor,
    endpoint,
    gc,
    jobs,
    permissions,
    predict,
    prices,
    rerun,
    run,
    runs,
    score,
    serve,
    submit,
    ui,
)
from birdsong.errors import BirdsongError, ConfigError

FAILED, USAGE, CANCELLED = 1, 2, 130
"""Exit codes: a step or the work failed; wrong use; cancelled by a signal."""

app = typer.Typer(
    name="birdsong",
    help="From a bucket of labelled bird recordings to a deployed, thresholded classifier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("submit")(submit.submit)
app.command("resume")(rerun.resume)
app.command("rerun")(rerun.rerun)
app.command("stop")(rerun.stop)
runs.app.command("gc")(gc.gc)
app.add_typer(runs.app, name="runs")
app.command("compile")(compiling.compile_pipeline)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.command("predict")(predict.predict)
app.command("score")(score.score)
app.command("jobs")(jobs.jobs)
app.command("prices")(prices.prices)
app.command("permissions")(permissions.permissions)
app.add_typer(endpoint.app, name="endpoint")
app.command("ui")(ui.ui)


def main() -> int:
    """Run the command of `sys.argv` and return the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = app(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BirdsongError as error:
        print(f"Error: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        print("Cancelled.", file=sys.stderr)
        return CANCELLED
    except BrokenPipeError:
        # The reader of a pipe has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a file without permission
        print(f"Error: {error}", file=sys.stderr)
        return FAILED
    except Exception as error:
        return _of_typer(error)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _of_typer(error: Exception) -> int:
    """Exit code of the errors that Typer raises by itself; any other error goes on."""
    show = getattr(error, "show", None)
    if callable(show):
        show()
        return USAGE
    if type(error).__name__ == "Abort":
        print("Cancelled.", file=sys.stderr)
        return CANCELLED
    if type(error).__name__ == "Exit":
        return int(getattr(error, "exit_code", FAILED))
    raise error


if __name__ == "__main__":
    sys.exit(main())
