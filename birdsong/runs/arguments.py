"""From what a person typed to the value of every parameter, checked before anything starts."""

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from birdsong import config
from birdsong.errors import BirdsongError, ConfigError
from birdsong.profiles import PROFILES
from birdsong.runs import graph

REMOTE = ("s3://", "gs://")


def resolve(
    ir: graph.Ir,
    *,
    source: str = "",
    profile: str | None = None,
    settings: Iterable[str] = (),
    runs: str | Path = "runs",
) -> dict[str, Any]:
    """Values of all parameters: the pipeline's defaults, the profile, the source, the settings.

    Args:
        ir: The compiled pipeline.
        source: Where the recordings are; empty for the profile's.
        profile: Name in `profiles.PROFILES`; None for demo with generated data, else quick.
        settings: Texts `name=value`.
        runs: Folder of all runs, which also holds the default registry.

    Raises:
        ConfigError: A name is unknown or a value does not fit.
    """
    given = dict(parse_setting(graph.parameter_types(ir), text) for text in settings)
    values, _ = of_profile(ir, source, profile, given)
    values |= places(values)
    if not values["registry"]:
        from birdsong.registry import default_registry

        values["registry"] = default_registry(runs)
    check(values)
    return graph.with_defaults(ir, values)


def of_profile(
    ir: graph.Ir, source: str, profile: str | None, given: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """The pipeline's defaults with a profile and what was given; and the profile's name.

    Args:
        ir: The compiled pipeline.
        source: Where the recordings are; one that is given wins; empty for the profile's.
        profile: Name in `profiles.PROFILES`; None for demo with generated data, else quick.
        given: Values by name.

    Raises:
        ConfigError: There is no such profile.
    """
    source = str(given.get("source", "")) or source
    if profile is None:
        profile = "demo" if not source or source.startswith("demo:") else "quick"
    if profile not in PROFILES:
        raise ConfigError(f"No profile {profile!r}. Profiles: {', '.join(sorted(PROFILES))}.")
    others = {name: value for name, value in given.items() if name != "source"}
    own = {"source": source} if source else {}
    return graph.defaults(ir) | PROFILES[profile] | own | others, profile


def parse_setting(types: Mapping[str, type], text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ConfigError(f"--set {text}: write it as name=value, such as --set epochs=5.")
    if name not in types:
        near = difflib.get_close_matches(name, types, n=1, cutoff=0.5)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"--set {name}: the pipeline has no such parameter.{guess} Known: {', '.join(types)}."
        )
    return name, parse_value(name, value.strip(), types[name])


def parse_value(name: str, text: str, kind: type) -> Any:
    """Read a value as the type that the pipeline declares.

    Raises:
        ConfigError: The text is no such value.
    """
    if kind is bool:
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in known:
            raise ConfigError(f"{name}: needs true or false, got {text!r}.")
        return known[text.lower()]
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{name}: needs a whole number, got {text!r}.") from None
    if kind is float:
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(f"{name}: needs a number, got {text!r}.") from None
        if not math.isfinite(value):
            raise ConfigError(f"{name}: needs a finite number, got {text!r}.")
        return value
    return text


def places(values: Mapping[str, Any]) -> dict[str, str]:
    """The values that name sources and labels, local ones as absolute paths.

    Raises:
        ConfigError: One cannot be read.
    """
    refuse_secrets(values)
    names = [name for name in ("source", "no_call_source") if values.get(name)]
    found = {name: place(str(values[name]), name) for name in names}
    table = str(values.get("frame_labels") or "").removeprefix("file://")
    if table and "://" not in table:
        found["frame_labels"] = str(Path(table).expanduser().resolve())
    return found


def place(source: str, name: str = "source") -> str:
    """A local source as an absolute path that exists; others as they are.

    Args:
        source: What was given.
        name: The parameter, for errors.
    """
    if source.startswith(REMOTE):
        if not source.split("://", 1)[1].strip("/"):
            raise ConfigError(
                f"{name} {source}: name a bucket, as in {source.split(':')[0]}://b/p."
            )
        return source
    if source.startswith("demo:") and name == "source":
        from birdsong import demo_data

        demo_data.parse(source)
        return source
    if "://" in source and not source.startswith("file://"):
        raise ConfigError(
            f"{name} {source}: not a place that can be read. Give a folder, a zip, "
            "s3://bucket/prefix, gs://bucket/prefix or demo:."
        )
    path = Path(source.removeprefix("file://")).expanduser().resolve()
    if not path.exists():
        raise ConfigError(
            f"{name} {path}: there is nothing. Give a folder, a zip, s3://bucket/prefix, "
            "gs://bucket/prefix, or demo: for generated songs."
        )
    if path.is_file() and path.suffix.lower() != ".zip":
        raise ConfigError(f"{name} {path}: a single file must be a .zip; else give its folder.")
    return str(path)


def refuse_secrets(values: Mapping[str, Any]) -> None:
    """Refuse addresses with a name or password in them: records, pages and clusters show values.

    Raises:
        ConfigError: Names the parameters, not what they hold.
    """
    holding = [
        name
        for name, value in values.items()
        if isinstance(value, str) and "@" in value.partition("://")[2].partition("/")[0]
    ]
    if holding:
        raise ConfigError(
            f"{', '.join(holding)}: a name or password does not belong into an address, which "
            "records and pages show. MLflow takes MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD from the environment, buckets the credentials of their SDKs."
        )


def check(values: Mapping[str, Any]) -> None:
    """Build the settings of every stage, so that a value out of its range is seen at once.

    Raises:
        ConfigError: All findings, one line each.
    """
    refuse_secrets(values)
    stages: list[tuple[type[config.Settings], dict[str, str]]] = [
        (config.IngestConfig, {}),
        (config.SplitConfig, {}),
        (config.FeatureConfig, {}),
        (config.Hyperparameters, {}),
        (config.TrainConfig, {}),
        (config.TuneConfig, {"epochs": "trial_epochs", "workers": "trial_workers"}),
        (config.EvaluateConfig, {}),
        (config.RegisterConfig, {}),
        (config.DeployConfig, {}),
    ]
    problems: dict[str, None] = {}
    for stage, renamed in stages:
        fields = {field: renamed.get(field, field) for field in stage.model_fields}
        chosen = {field: values[name] for field, name in fields.items() if name in values}
        try:
            stage(**chosen)
        except BirdsongError as error:
            for problem in str(error).split("; "):
                field, colon, rest = problem.partition(": ")
                problems[f"{renamed.get(field, field)}{colon}{rest}"] = None
    if (values.get("backbone"), values.get("front_end")) == ("inception_v3", "small"):
        problems["front_end: small is too small for inception_v3; choose full."] = None
    problems |= dict.fromkeys(_problems_of_places(values))
    if not problems:
        problems |= dict.fromkeys(_problems_on_sagemaker(values))
    if problems:
        raise ConfigError("\n".join(problems))


def _problems_on_sagemaker(values: Mapping[str, Any]) -> list[str]:
    """What register and deploy would say at the end of a run: what SageMaker needs is missing."""
    from birdsong.registry import SAGEMAKER

    registered = str(values.get("registry") or "").strip().startswith(SAGEMAKER)
    problems = []
    if registered:
        from birdsong.aws.registry import check_image, check_name

        for check, name in ((check_image, "serve_image"), (check_name, "model_name")):
            try:
                check(str(values.get(name) or ""))
            except BirdsongError as error:
                problems.append(str(error))
    if values.get("target") == "sagemaker":
        from birdsong.aws.endpoint_step import wish_of

        if not registered:
            problems.append(
                "target: sagemaker deploys versions of SageMaker's registry; give "
                "registry=sagemaker://BUCKET/PREFIX."
            )
        names = config.DeployConfig.model_fields
        chosen = {name: values[name] for name in names if name in values}
        try:
            wish_of("arn", config.DeployConfig(**chosen), "bucket", "1")
        except BirdsongError as error:
            problems.append(str(error))
    return problems


def _problems_of_places(values: Mapping[str, Any]) -> list[str]:
    """What register and train would say only hours later: no such registry, no such weights."""
    problems = []
    if registry := values.get("registry"):
        from birdsong.registry import check_address

        try:
            check_address(str(registry))
        except BirdsongError as error:
            problems.append(str(error))
        except ValueError as error:  # of urllib: http://[
            problems.append(f"registry {registry!r} is no address ({error}).")
    table = str(values.get("frame_labels") or "")
    if table and not Path(table).expanduser().is_file():
        problems.append(
            f"frame_labels: {table} does not exist. Give a local CSV file with its recordings in "
            "or below its folder, or leave it empty."
        )
    weights = str(values.get("weights", "none"))
    if weights == "imagenet" and values.get("backbone") == "tiny":
        problems.append(
            "weights: backbone tiny has no ImageNet weights; choose weights=none, or another "
            "backbone."
        )
    named = weights in ("imagenet", "none") or weights.startswith("models:/")
    here = not named and "://" not in weights
    if here and not Path(weights).expanduser().is_file():
        problems.append(
            f"weights: {weights} does not exist. Give imagenet, none, a .h5 file or its URI, "
            "or models:/NAME/VERSION."
        )
    return problems
