"""tune and train as jobs of SageMaker: the same DAG, told so by one variable of these two steps."""

import functools
import math
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from birdsong import artifacts, image_code
from birdsong.aws.settings import VARIABLE
from birdsong.errors import BirdsongError, ConfigError
from birdsong.runs.record import PIPELINE, Run

if TYPE_CHECKING:
    from birdsong.aws.settings import JobSettings

STEPS = ("tune", "train")


def with_image(settings: "JobSettings") -> "JobSettings":
    """The settings with the image that the jobs run: what they name, else that of this code.

    Raises:
        ConfigError: SageMaker could not pull it.
    """
    if settings.image:
        return settings
    from components import images

    reference = images.for_sagemaker("train")
    if not reference.rpartition(f"/{image_code.NAME}")[0]:
        raise ConfigError(
            "--sagemaker: SageMaker needs the image train in a registry. Name it in the file "
            "(image: ACCOUNT.dkr.ecr.REGION.amazonaws.com/birdsong-python-train:TAG-sagemaker), or "
            "set BIRDSONG_REGISTRY=ACCOUNT.dkr.ecr.REGION.amazonaws.com. With that variable, make "
            "images builds it under this name for docker push."
        )
    return settings.model_copy(update={"image": reference})


def on_sagemaker(pipeline: Any, settings: "JobSettings | None") -> Any:
    """The pipeline whose tune and train drive jobs; the pipeline itself where there are none.

    Args:
        pipeline: A function decorated by `kfp.dsl.pipeline`.
        settings: Of the jobs, from `with_image`.
    """
    if settings is None:
        return pipeline
    from kfp import dsl
    from kfp.dsl import pipeline_context

    from components import images

    @functools.wraps(pipeline.pipeline_func)
    def elsewhere(*values: Any, **named: Any) -> None:
        pipeline.pipeline_func(*values, **named)
        tasks = pipeline_context.Pipeline.get_default_pipeline().tasks
        for step in STEPS:
            tasks[step].set_container_image(images.reference("cloud"))
            tasks[step].set_env_variable(VARIABLE, settings.model_dump_json())

    return dsl.pipeline(name=pipeline.name, description=pipeline.description)(elsewhere)


def of_run(run: Run) -> "JobSettings | None":
    """The settings that a run's jobs had; None where it computed here."""
    return of_pipeline(artifacts.read_json(run.folder / PIPELINE))


def of_pipeline(ir: Mapping[str, Any]) -> "JobSettings | None":
    """The settings in a compiled pipeline; None where it computes where it runs."""
    from birdsong.aws.settings import of_step

    executors = ir.get("deploymentSpec", {}).get("executors", {})
    for executor in executors.values():
        for one in executor.get("container", {}).get("env", []):
            if one.get("name") == VARIABLE:
                return of_step({VARIABLE: one["value"]})
    return None


def stop_jobs(environment: Mapping[str, str]) -> str:
    """Stop the jobs of a step that was ended, unless its settings leave them; for its log.

    Args:
        environment: Of the step.
    """
    from birdsong.aws import at_work, prices
    from birdsong.aws.clients import Account
    from birdsong.aws.settings import JOBS_OF, of_step

    settings = of_step(environment)
    if settings.on_cancel == "leave":
        return "\nSageMaker: cancelled, jobs go on (on_cancel: leave)\n"
    run = environment[JOBS_OF]
    try:
        names = at_work.stop(Account(settings.region, patience=30), prices.load(), run)
    except BirdsongError as error:
        return (
            f"\nSageMaker: cancelled, but its jobs may be at work: {error} "
            f"Stop them with: python pipeline.py stop {run} --region {settings.region}\n"
        )
    return f"\nSageMaker: cancelled, stopped {', '.join(names) or 'no job, for none is at work'}\n"


def describe(
    settings: "JobSettings | None", values: Mapping[str, Any], steps: Collection[str] = STEPS
) -> list[str]:
    """What a dry run says about jobs: where they run, and what each step costs at most.

    Args:
        settings: Of the jobs; nothing is said where there are none.
        values: Value of each parameter of the pipeline.
        steps: What would run; nothing is said where none of it is a job.

    Raises:
        ConfigError: A step may cost more than the budget.
    """
    if settings is None or not set(STEPS) & set(steps):
        return []
    from birdsong.aws import money, prices

    region = settings.region or os.environ.get("AWS_DEFAULT_REGION", "")
    table = prices.load(settings.prices)
    lines = ["SageMaker", f"  {settings.image}", f"  {settings.place}, as {settings.role}"]
    hours = {"tune": settings.trial_max_runtime_hours, "train": settings.max_runtime_hours}
    for step in (step for step in STEPS if step in steps):
        jobs = int(values.get("trials", 0)) if step == "tune" else 1
        if not jobs:
            lines.append(f"  {step:<6} no trials, no job")
            continue
        seconds = math.ceil(hours[step] * 3600)
        bound = money.estimate(
            table, region, settings.instance, seconds, jobs=jobs, spot=settings.spot
        )
        lines.append(f"  {step:<6} {bound}")
        bound.check(settings.budget_usd)
    return lines
