"""Values of the pipeline's parameters for a cluster, and what no pod could do with them."""

from collections.abc import Iterable, Mapping
from typing import Any

from birdsong.errors import BirdsongError, ConfigError
from birdsong.kubeflow.settings import ClusterSettings, Resources
from birdsong.runs import arguments, graph

MLFLOW_IN_CLUSTER = "http://mlflow.kubeflow:5000"
"""Address of the server of `k8s/overlays/mlflow`, as pods see it."""

PLACES = ("source", "no_call_source")
"""Parameters that name recordings."""


def resolve(
    ir: graph.Ir,
    cluster: ClusterSettings,
    *,
    source: str = "",
    profile: str | None = None,
    settings: Iterable[str] = (),
    earlier: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], str]:
    """Values of all parameters for a run on a cluster.

    Args:
        ir: The compiled pipeline.
        cluster: Its settings.
        source: Where the recordings are; empty for the profile's.
        profile: Name in `profiles.PROFILES`; None for demo with generated data, else quick.
        settings: Texts `name=value`.
        earlier: Values of the run that is rerun; they stand in for profile and source.

    Returns:
        The values, and the profile that they are of.

    Raises:
        ConfigError: A name is unknown, a value does not fit, or no pod could use it.
    """
    given = dict(arguments.parse_setting(graph.parameter_types(ir), text) for text in settings)
    if earlier is None:
        values, profile = arguments.of_profile(ir, source, profile, given)
    else:
        known = graph.parameter_types(ir)
        taken = {
            name: _typed(value, known[name]) for name, value in earlier.items() if name in known
        }
        values = graph.defaults(ir) | taken | given
        profile = profile or profile_of(values)
    values["registry"] = values["registry"] or cluster.registry
    arguments.refuse_secrets(values)
    for name in PLACES:
        if values[name]:
            values[name] = _place(name, str(values[name]), cluster)
    _check(values, cluster)
    return graph.with_defaults(ir, values), profile


def _typed(value: Any, kind: type) -> Any:
    return kind(value) if kind in (int, float) and isinstance(value, int | float) else value


def profile_of(values: Mapping[str, Any]) -> str:
    """The profile whose sizes fit values that were chosen earlier."""
    return "reference" if values.get("front_end") == "full" else "quick"


def _place(name: str, place: str, cluster: ClusterSettings) -> str:
    """A source as a pod sees it: an address, or a path in a mounted claim."""
    if place.startswith((*arguments.REMOTE, "demo:")):
        return arguments.place(place, name)
    path = place.removeprefix("file://")
    if any(mount.holds(path) for mount in cluster.mounts):
        return path
    known = ", ".join(f"{mount.path} ({mount.claim})" for mount in cluster.mounts)
    mounted = f" Mounted there: {known}." if known else ""
    raise ConfigError(
        f"{name} {place}: no pod sees this machine's files.{mounted} Put them into a bucket "
        "(s3://bucket/prefix, gs://bucket/prefix), or mount a claim that holds them "
        "(`mounts:` in the file of --cluster)."
    )


def _check(values: dict[str, Any], cluster: ClusterSettings) -> None:
    problems: list[str] = []
    registry = str(values["registry"])
    if not registry or registry.startswith("sqlite:"):
        what = "is a file, which is lost with its pod" if registry else "is empty"
        problems.append(
            f"registry {what}. Give an MLflow server that pods reach, such as the one of "
            f"k8s/overlays/mlflow: --set registry={MLFLOW_IN_CLUSTER}"
        )
    weights = str(values["weights"])
    named = weights in ("imagenet", "none") or weights.startswith("models:/")
    if not named and "://" not in weights.removeprefix("file://"):
        try:
            values["weights"] = _place("weights", weights, cluster)
        except ConfigError as error:
            problems.append(str(error))
    table = str(values["frame_labels"])
    if table and "://" not in table.removeprefix("file://"):
        try:
            values["frame_labels"] = _place("frame_labels", table, cluster)
        except ConfigError as error:
            problems.append(str(error))
    checked = dict(values)
    # Whether a pod finds the files is not known here.
    if not named:
        checked["weights"] = "none"
    if "://" not in table.removeprefix("file://"):
        checked["frame_labels"] = ""
    if problems:
        checked["registry"] = ""  # said already
    try:
        arguments.check(checked)
    except BirdsongError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))


def check_devices(values: Mapping[str, Any], wanted: Mapping[str, Resources]) -> None:
    """Refuse more devices than a step's pod gets.

    Raises:
        ConfigError: Says how to change either.
    """
    devices = int(values["devices"])
    for step in ("tune", "train"):
        if devices > 1 and devices > wanted[step].gpus:
            raise ConfigError(
                f"devices is {devices}, but {step} asks for {wanted[step].gpus} GPUs. Lower it, "
                f"or set steps: {step}: gpus: {devices} in the file of --cluster."
            )
