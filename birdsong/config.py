"""Settings of every stage, with their ranges and units.

A KFP parameter is a plain scalar that fills one field, so that the UI's form and Clone work.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from birdsong.errors import ConfigError

SAMPLE_RATE = 22_050
"""Samples per second of all features."""


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown fields, errors as `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self).__name__, error)) from None


def _explain(name: str, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"]) or name
        message = problem["msg"].removeprefix("Value error, ")
        came = "" if problem["type"] == "value_error" else f" (got {problem['input']!r})"
        lines.append(f"{field}: {message}{came}")
    return "; ".join(lines)


class IngestConfig(Settings):
    """Where the recordings are and how many bad ones are borne."""

    source: str = Field(
        default="demo:",
        min_length=1,
        description="Folder, zip, s3://bucket/prefix, gs://bucket/prefix (or a .zip there), demo:",
    )
    layout: Literal["auto", "birdclef2020", "birdclef2021", "birdclef2022", "folders"] = Field(
        default="auto", description="How the source is laid out; auto looks at what is there"
    )
    max_bad_share: float = Field(
        default=0.05, ge=0, le=1, description="Share of bad recordings above which the stage fails"
    )
    snapshot: bool = Field(
        default=False, description="Also pack the original bytes into the artifact"
    )


class SplitConfig(Settings):
    """How recordings are shared out; what is left of 1 is for training."""

    validation_fraction: float = Field(
        default=0.06, ge=0, lt=1, description="Share for choosing the epoch"
    )
    calibration_fraction: float = Field(
        default=0.07, ge=0, lt=1, description="Share for thresholds"
    )
    test_fraction: float = Field(
        default=0.07, ge=0, lt=1, description="Share for the reported figures"
    )
    seed: int = Field(default=0, ge=0, description="Seed of the shares")
    group_by: str = Field(
        default="author,date,place",
        description="What keeps recordings together, comma-separated, of author, date, place; "
        "empty: each recording stands alone",
    )
    split_column: str = Field(
        default="", description="Column of the metadata with a split of one's own; empty: none"
    )

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> Self:
        held_out = self.validation_fraction + self.calibration_fraction + self.test_fraction
        if held_out >= 1:
            raise ValueError(
                f"the three fractions add up to {held_out:g}, nothing is left to train on"
            )
        unknown = set(self.group_keys) - {"author", "date", "place"}
        if unknown:
            raise ValueError(
                f"group_by knows author, date and place, not {', '.join(sorted(unknown))}"
            )
        return self

    @property
    def group_keys(self) -> tuple[str, ...]:
        """The columns that keep recordings together."""
        return tuple(key.strip() for key in self.group_by.split(",") if key.strip())


class FeatureConfig(Settings):
    """Waveforms as they are stored for training and used in serving."""

    sample_rate: int = Field(
        default=SAMPLE_RATE, ge=4_000, le=96_000, description="Samples per second"
    )
    window_seconds: float = Field(
        default=60.0, ge=5, le=60, description="Seconds of one window, the unit of a decision"
    )
    seconds: float = Field(
        default=60.0, ge=5, le=86_400, description="Most seconds that are kept of one recording"
    )
    encoding: Literal["pcm", "flac"] = Field(
        default="pcm", description="How shards store 16-bit samples"
    )
    max_bad_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of quarantined recordings above which the stage fails",
    )
    no_call_source: str = Field(
        default="",
        description="Folder, zip or bucket of audio without birds, for training's background; "
        "empty: none",
    )


class FrontEndConfig(Settings):
    """From 5-second frames to pictures: three log-mel spectrograms as three channels."""

    sample_rate: int = Field(default=SAMPLE_RATE, description="Samples per second")
    frame_seconds: float = Field(default=5.0, description="Seconds of one frame")
    hop: int = Field(default=369, description="Samples from one column of the picture to the next")
    windows: tuple[int, int, int] = Field(
        default=(2646, 661, 165), description="Hann windows in samples, one for each channel"
    )
    mel_bands: int = Field(
        default=320, description="Mel bands between 0 Hz and half the sample rate"
    )
    dropped_bands: int = Field(default=21, description="Lowest bands that are left out")
    floor_db: float = Field(default=80.0, description="Range of levels below full scale, dB")

    @property
    def frame_samples(self) -> int:
        """Samples of one frame."""
        return round(self.frame_seconds * self.sample_rate)

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Columns (time), rows (mel bands) and channels of a picture."""
        return (
            1 + self.frame_samples // self.hop,
            self.mel_bands - self.dropped_bands,
            len(self.windows),
        )


FRONT_ENDS: dict[str, FrontEndConfig] = {
    "full": FrontEndConfig(),
    "small": FrontEndConfig(hop=882, mel_bands=72, dropped_bands=8),
}
"""`full` is the recipe's 299 x 299 x 3; `small` is 126 x 64 x 3, for CPUs."""


class Hyperparameters(Settings):
    """The five hyperparameters that tune searches; the defaults are the reference's best values."""

    learning_rate: float = Field(default=3.819e-4, gt=0, le=1, description="Adam's learning rate")
    time_mask: float = Field(
        default=0.666, ge=0, lt=1, description="Widest masked slice, share of the picture's time"
    )
    freq_mask: float = Field(
        default=0.291, ge=0, lt=1, description="Widest masked slice, share of the picture's bands"
    )
    reduce_db: float = Field(
        default=0.461,
        ge=0,
        lt=1,
        description="Most by which the decibel floor is raised, share of its range",
    )
    dropout: float = Field(default=0.366, ge=0, lt=1, description="Dropout before the head")


class TrainConfig(Settings):
    """The network and its training."""

    backbone: Literal["tiny", "mobilenet_v3_small", "efficientnet_v2_b0", "inception_v3"] = Field(
        default="inception_v3", description="The network between pictures and scores"
    )
    weights: str = Field(
        default="imagenet",
        description="imagenet, none, a .weights.h5 file or URI, or models:/NAME/VERSION",
    )
    weights_sha256: str = Field(
        default="",
        pattern=r"^([0-9a-f]{64})?$",
        description="SHA-256 of the weights file; empty: unchecked",
    )
    registry: str = Field(
        default="", description="MLflow's address, where models:/NAME/VERSION is looked up"
    )
    front_end: Literal["full", "small"] = Field(default="full", description="Size of the pictures")
    epochs: int = Field(default=24, ge=1, le=10_000, description="Most epochs")
    patience: int = Field(
        default=0, ge=0, description="Epochs without a better one before training stops; 0: never"
    )
    batch_size: int = Field(default=32, ge=1, le=4096, description="Recordings per step")
    pos_weight: float = Field(default=1.0, gt=0, description="Weight of positives in the loss")
    class_balance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="0: every recording equally often, 1: every species equally often",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of examples that are mixed with any other one, their labels joined",
    )
    background: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of examples that get background: no-call audio where featurize was "
        "given some, else the quietest frame of another recording",
    )
    gain_db: float = Field(
        default=0.0, ge=0, le=60, description="Most by which an example is made quieter, dB"
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="Taken from the target of a species that is there, and spread over all",
    )
    rating_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="How much a recording's rating weighs in the loss: 0 not at all; 1: the best "
        "counts 1, the worst 0.2, an unrated one as the middle",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        default="float32",
        description="Numbers that the network trains in; weights and the exported graph are "
        "float32 always",
    )
    devices: int = Field(
        default=1, ge=1, le=64, description="GPUs of this host that share each step"
    )
    seed: int = Field(default=0, ge=0, description="Seed of weights, order and augmentation")


class RuntimeConfig(Settings):
    """When a runtime beside TensorFlow may serve the network: compared on validation recordings.

    Of 99 recordings and fewer all must agree, and of 199 and fewer none may become right or wrong:
    a few recordings cannot show that a share is small, so that nothing is let pass on them.
    """

    runtime_agreement: float = Field(
        default=0.99,
        ge=0,
        le=1,
        description="Smallest share of recordings whose top species is TensorFlow's",
    )
    runtime_accuracy_points: float = Field(
        default=0.5,
        ge=0,
        le=100,
        description="Most by which its accuracy may differ from TensorFlow's, percentage points",
    )


class TuneConfig(Settings):
    """The search for hyperparameters."""

    trials: int = Field(default=0, ge=0, le=10_000, description="Trials; 0: pass the defaults on")
    epochs: int = Field(default=8, ge=1, le=10_000, description="Epochs of one trial")
    space: str = Field(
        default="",
        description="What is searched beside or instead of the five hyperparameters, a JSON "
        "object; empty: these alone",
    )
    workers: int = Field(
        default=1, ge=1, le=64, description="Processes of this machine that share the trials"
    )

    @field_validator("space")
    @classmethod
    def _is_a_space(cls, text: str) -> str:
        from birdsong import search_space

        search_space.parse(text)
        return text


class EvaluateConfig(Settings):
    """Thresholds and the reported figures."""

    target_fpr: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Share of windows without a species that may still score above its threshold",
    )
    confidence: float = Field(
        default=0.95,
        ge=0,
        lt=1,
        description="How sure a species' own threshold keeps that rate; 0: on average only",
    )
    min_positives: int = Field(
        default=5,
        ge=1,
        description="Fewest positive calibration windows for a threshold of its own",
    )
    golden: int = Field(
        default=8, ge=1, le=100, description="Recordings that travel with the model as a check"
    )
    frame_labels: str = Field(
        default="",
        description="Table of labelled 5-second frames with its recordings beside it, in the form "
        "of BirdCLEF 2021's train_soundscape_labels.csv; empty: none",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the bootstrap")


class RegisterConfig(Settings):
    """Whether and where a model is registered."""

    model_name: str = Field(
        default="birdsong",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$",
        description="Name in the registry",
    )
    gate: Literal["none", "baseline", "champion"] = Field(
        default="baseline", description="What a model must pass to be offered for deployment"
    )
    registry: str = Field(
        default="",
        description="MLflow's address, sqlite:///FILE or http(s)://HOST; or sagemaker://BUCKET/PREFIX",
    )
    approval: Literal["manual", "gate"] = Field(
        default="manual",
        description="SageMaker: whether a person approves a version, or the gate that it passed",
    )
    serve_image: str = Field(
        default="", description="SageMaker: image serve in ECR, ACCOUNT.dkr.ecr.REGION..../NAME:TAG"
    )
    seed: int = Field(default=0, ge=0, description="Seed of the paired bootstrap")


class DeployConfig(Settings):
    """Where a registered version goes."""

    target: Literal["none", "local", "sagemaker"] = Field(
        default="local", description="Where it is served"
    )
    tolerance: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Largest difference of a golden recording's scores; 0: what the bundle states "
        "for the runtime that answers",
    )
    runtime: Literal[
        "auto", "tensorflow", "onnx", "openvino-fp32", "openvino-bf16", "openvino-int8"
    ] = Field(
        default="auto", description="What computes the network; auto: the fastest admitted one"
    )
    latency_ms: float = Field(
        default=0, ge=0, description="Largest median time of an answer, milliseconds; 0: any"
    )
    timeout_seconds: float = Field(
        default=180, gt=0, description="Longest wait for the server here, seconds"
    )
    endpoint_name: str = Field(
        default="",
        pattern=r"^([a-zA-Z0-9](-*[a-zA-Z0-9]){0,49})?$",
        description="SageMaker: name of the endpoint; empty: that of the model",
    )
    endpoint_role: str = Field(
        default="",
        pattern=r"^(arn:aws[a-z-]*:iam::\d{12}:role/.+)?$",
        description="SageMaker: ARN of the role that the container runs as",
    )
    instance: str = Field(
        default="ml.m5.xlarge",
        pattern=r"^(serverless|ml\.[a-z0-9-]+\.[a-z0-9-]+)$",
        description="SageMaker: instance type, or serverless",
    )
    endpoint_options: str = Field(
        default="", description="SageMaker: further settings as JSON, see aws/endpoint_options.py"
    )

    @field_validator("endpoint_options")
    @classmethod
    def _are_options(cls, text: str) -> str:
        from birdsong.aws.endpoint_options import EndpointOptions

        EndpointOptions.parse(text)
        return text
