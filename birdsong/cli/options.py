"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from birdsong.aws.settings import JobSettings
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

Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="URL",
        help="Address of Kubeflow Pipelines, such as http://localhost:8080 behind a port-forward.",
    ),
]
"""`--host URL`, where a cluster is meant in any case."""

AtHost = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="URL",
        help="Look at a Kubeflow Pipelines backend instead of this machine; RUN is then an id, the "
        "start of one, a name, or latest.",
    ),
]
"""`--host URL` of commands that otherwise work on this machine."""

Auth = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="With --host: none; token, from BIRDSONG_KFP_TOKEN or the file "
        "BIRDSONG_KFP_TOKEN_FILE; client, as kfp.Client finds credentials; auto: a token where "
        "the environment names one, else none.",
    ),
]
"""`--auth KIND`."""

ClusterFile = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        metavar="FILE",
        help="What the cluster is like: images, sizes of steps, secrets, mounts; examples are in "
        "k8s/clusters/.",
        envvar="BIRDSONG_CLUSTER",
    ),
]
"""`--cluster FILE`."""

RUNS_ON = ("here", "sagemaker")
"""Where tune and train can compute."""

RunsOn = Annotated[
    str,
    typer.Option(
        metavar="WHERE",
        help="Where tune and train compute: here (this machine, or pods of the cluster), or "
        "sagemaker: jobs that --sagemaker describes.",
    ),
]
"""`--runs-on here|sagemaker`."""

SageMakerFile = Annotated[
    Path | None,
    typer.Option(
        "--sagemaker",
        metavar="FILE",
        help="With --runs-on sagemaker: role, bucket, image, instance, spot, limits of the jobs; "
        "an example is birdsong/aws/example.yaml.",
        envvar="BIRDSONG_SAGEMAKER_FILE",
    ),
]
"""`--sagemaker FILE`."""


Budget = Annotated[
    float | None,
    typer.Option(
        metavar="USD",
        help="With --runs-on sagemaker: US dollars that a step may cost at most; above, or where "
        "no rate is known, it starts no job. Default: budget_usd of the file of --sagemaker.",
    ),
]
"""`--budget USD`."""


def by_hand(context: typer.Context, name: str) -> bool:
    """Whether an option was given with the command, not by a variable of the environment.

    Args:
        context: Of the command.
        name: Of the command's parameter.
    """
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def job_settings(
    context: typer.Context, runs_on: str, file: Path | None, budget: float | None = None
) -> "JobSettings | None":
    """Settings of the jobs on SageMaker; None where tune and train compute here.

    Args:
        context: Of the command.
        runs_on: Of `--runs-on`.
        file: Of `--sagemaker`. One that a variable names is no wish to compute there.
        budget: Of `--budget`.

    Raises:
        ConfigError: The place is unknown, or the file is missing or does not fit.
    """
    from birdsong.aws import settings
    from birdsong.errors import ConfigError

    if runs_on not in RUNS_ON:
        raise ConfigError(f"--runs-on {runs_on!r}: choose {' or '.join(RUNS_ON)}.")
    if budget is not None and not 0 < budget < float("inf"):
        raise ConfigError(f"--budget {budget:g}: needs US dollars above 0.")
    if runs_on == "here":
        if budget is not None or by_hand(context, "sagemaker"):
            raise ConfigError("--sagemaker and --budget are for --runs-on sagemaker.")
        return None
    if file is None:
        raise ConfigError(
            "--runs-on sagemaker needs --sagemaker FILE (or BIRDSONG_SAGEMAKER_FILE), such as:\n"
            f"{settings.EXAMPLE}"
        )
    from birdsong.runs import elsewhere

    found = elsewhere.with_image(settings.read(file))
    return found if budget is None else found.model_copy(update={"budget_usd": budget})


Wait = Annotated[
    bool, typer.Option("--wait", help="Follow the run to its end; the exit code says how it ended.")
]
"""`--wait`."""

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


class Runner(StrEnum):
    """Names of `birdsong.runs.runners`."""

    SUBPROCESS = "subprocess"
    DOCKER = "docker"


RunnerOption = Annotated[
    Runner | None,
    typer.Option(
        "--runner",
        envvar="BIRDSONG_RUNNER",
        help="subprocess: each step is a process with the packages that are installed here. "
        "docker: each step is a container of the image of its kind (make images). Default: "
        "that of the run it goes on from, else subprocess.",
    ),
]
"""`--runner subprocess|docker`."""


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
