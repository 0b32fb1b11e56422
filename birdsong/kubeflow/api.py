"""The KFP backend's API (v2beta1): typed calls, with errors that say what to do next.

The calls and their models are those of `kfp_server_api`; this file adds time limits, repeated
reads, and a difference that matters for writes: whether a request may have arrived.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from birdsong.errors import BirdsongError, StorageError, UnreachableError
from birdsong.kubeflow.access import CA_FILE, TOKEN, TOKEN_FILE, Access

T = TypeVar("T")

_READ_TRIES = 3
_PAGE = 100


def pause(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


class AnswerError(BirdsongError):
    """The backend refused a request.

    Attributes:
        status: Of HTTP.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class UnsureError(UnreachableError):
    """A request was sent and no answer came: it may have been carried out."""


class Api:
    """The backend."""

    def __init__(self, given: Access, sleep: Callable[[float], None] = pause) -> None:
        """Prepare, without a request.

        Args:
            given: Where it is and how to prove who asks.
            sleep: Waits between tries.
        """
        import kfp_server_api as server

        self.access, self._sleep = given, sleep
        client = _client_of_kfp(given) if given.auth == "client" else _plain_client(given)
        self._experiments = server.ExperimentServiceApi(client)
        self._pipelines = server.PipelineServiceApi(client)
        self._uploads = server.PipelineUploadServiceApi(client)
        self._runs = server.RunServiceApi(client)
        self._health = server.HealthzServiceApi(client)

    # --- reading: repeated where the network fails ---

    def check(self) -> None:
        """Ask whether a KFP backend answers there at all.

        Raises:
            BirdsongError: It does not, or it wants other credentials.
        """
        self._read("ask for its health", self._health.healthz_service_get_healthz)

    def run(self, run_id: str) -> Any:
        """A run by its id, with the states of its tasks."""
        return self._read(f"find run {run_id}", self._runs.run_service_get_run, run_id)

    def runs(
        self, *, experiment_id: str | None = None, name: str | None = None, most: int = _PAGE
    ) -> list[Any]:
        """Runs, the newest first."""
        found: list[Any] = []
        page = ""
        while len(found) < most:
            more: dict[str, Any] = {"page_token": page} if page else {}
            if experiment_id:
                more["experiment_id"] = experiment_id
            elif self.access.namespace:
                more["namespace"] = self.access.namespace
            if name is not None:
                more["filter"] = _equals("display_name", name)
            answer = self._read(
                "list the runs",
                self._runs.run_service_list_runs,
                page_size=min(_PAGE, most),
                sort_by="created_at desc",
                **more,
            )
            found += answer.runs or []
            page = answer.next_page_token or ""
            if not page:
                break
        return found[:most]

    def experiment(self, name: str) -> Any | None:
        """An experiment by its name; None where there is none."""
        answer = self._read(
            "list the experiments",
            self._experiments.experiment_service_list_experiments,
            filter=_equals("display_name", name),
            **self._namespace(),
        )
        return next((e for e in answer.experiments or [] if e.display_name == name), None)

    def experiment_name(self, experiment_id: str) -> str:
        """Name of an experiment."""
        found = self._read(
            "find the experiment of the run",
            self._experiments.experiment_service_get_experiment,
            experiment_id,
        )
        return str(found.display_name)

    def pipeline_id(self, name: str) -> str | None:
        """Id of a pipeline; None where there is none."""
        answer = self._read(
            "list the pipelines",
            self._pipelines.pipeline_service_list_pipelines,
            filter=_equals("display_name", name),
            **self._namespace(),
        )
        fitting = [p for p in answer.pipelines or [] if name in (p.display_name, p.name)]
        return str(fitting[0].pipeline_id) if fitting else None

    def version(self, pipeline_id: str, name: str) -> Any | None:
        """A version of a pipeline by its name; None where there is none."""
        answer = self._read(
            "list the versions of the pipeline",
            self._pipelines.pipeline_service_list_pipeline_versions,
            pipeline_id,
            filter=_equals("display_name", name),
        )
        versions = answer.pipeline_versions or []
        return next((v for v in versions if name in (v.display_name, v.name)), None)

    def version_by_id(self, pipeline_id: str, version_id: str) -> Any:
        """A version of a pipeline by its id."""
        return self._read(
            "read the pipeline of the run",
            self._pipelines.pipeline_service_get_pipeline_version,
            pipeline_id,
            version_id,
        )

    # --- writing: sent once; the caller decides about a second time ---

    def create_experiment(self, name: str) -> Any:
        """A new experiment."""
        import kfp_server_api as server

        wanted = server.V2beta1Experiment(display_name=name, **self._namespace())
        return self._write(
            f"create the experiment {name}",
            self._experiments.experiment_service_create_experiment,
            wanted,
        )

    def create_pipeline(self, name: str, description: str) -> Any:
        """A new pipeline without versions."""
        import kfp_server_api as server

        wanted = server.V2beta1Pipeline(
            name=name, display_name=name, description=description, **self._namespace()
        )
        return self._write(
            f"create the pipeline {name}",
            self._pipelines.pipeline_service_create_pipeline,
            wanted,
        )

    def upload_version(self, pipeline_id: str, name: str, file: Path, description: str) -> Any:
        """A new version of a pipeline from a compiled file."""
        return self._write(
            f"upload the pipeline version {name}",
            self._uploads.upload_pipeline_version,
            str(file),
            name=name,
            display_name=name,
            pipelineid=pipeline_id,
            description=description,
        )

    def create_run(self, wanted: Any) -> Any:
        """Start a run.

        Args:
            wanted: A `kfp_server_api.V2beta1Run`.
        """
        return self._write(
            f"start the run {wanted.display_name}", self._runs.run_service_create_run, wanted
        )

    def retry(self, run_id: str) -> None:
        """Go on with a failed or cancelled run."""
        self._write(f"resume run {run_id}", self._runs.run_service_retry_run, run_id)

    def terminate(self, run_id: str) -> None:
        """End a run."""
        self._write(f"stop run {run_id}", self._runs.run_service_terminate_run, run_id)

    # --- underneath ---

    def _namespace(self) -> dict[str, str]:
        return {"namespace": self.access.namespace} if self.access.namespace else {}

    def _read(self, what: str, call: Callable[..., T], *values: Any, **named: Any) -> T:
        for attempt in range(1, _READ_TRIES + 1):
            try:
                return self._ask(what, call, *values, **named)
            except (UnreachableError, AnswerError) as error:
                passing = isinstance(error, UnreachableError) or error.status in (
                    429,
                    502,
                    503,
                    504,
                )
                if attempt == _READ_TRIES or not passing:
                    raise
                self._sleep(attempt)
        raise AssertionError("unreachable")

    def _write(self, what: str, call: Callable[..., T], *values: Any, **named: Any) -> T:
        return self._ask(what, call, *values, **named)

    def _ask(self, what: str, call: Callable[..., T], *values: Any, **named: Any) -> T:
        limit = (self.access.connect_seconds, self.access.read_seconds)
        owner, name = call.__self__, call.__name__  # type: ignore[attr-defined]
        whole = getattr(owner, f"{name}_with_http_info")
        with _told(self.access, what):
            answer, _, headers = whole(*values, _request_timeout=limit, **named)
            # kfp_server_api reads an HTML page as a model without values, without a word.
            if "json" not in str(headers.get("Content-Type", "")):
                raise TypeError("no JSON")
            return cast(T, answer)


def _equals(key: str, value: str) -> str:
    predicate = {"operation": "EQUALS", "key": key, "string_value": value}
    return json.dumps({"predicates": [predicate]})


def _configuration(given: Access) -> Any:
    import kfp_server_api as server

    configuration = server.Configuration(host=given.host)
    configuration.retries = False  # a second try of a write is decided here, not by urllib3
    if given.ca_file is not None:
        configuration.ssl_ca_cert = str(given.ca_file)
    return configuration


def _plain_client(given: Access) -> Any:
    import kfp_server_api as server

    configuration = _configuration(given)
    if given.token:
        configuration.api_key["authorization"] = given.token
        configuration.api_key_prefix["authorization"] = "Bearer"
    return server.ApiClient(configuration)


def _client_of_kfp(given: Access) -> Any:
    """The connection as kfp.Client makes it, with credentials from where it finds them."""
    import warnings

    import kfp_server_api as server

    # kfp.Client asks for the health by itself, for half a minute where nobody answers.
    with _told(given, "ask for its health"):
        server.HealthzServiceApi(_plain_client(given)).healthz_service_get_healthz(
            _request_timeout=(given.connect_seconds, given.read_seconds)
        )
    import kfp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        named = {"namespace": given.namespace} if given.namespace else {}
        made = kfp.Client(
            host=given.host, ssl_ca_cert=str(given.ca_file) if given.ca_file else None, **named
        )
    return made._run_api.api_client


@contextlib.contextmanager
def _told(given: Access, what: str) -> Iterator[None]:
    """Turn the errors of a request into ours."""
    import kfp_server_api as server
    import urllib3

    where = f"Kubeflow Pipelines at {given.host}"
    errors = urllib3.exceptions
    try:
        yield
    except server.ApiException as error:
        raise _refused(given, what, error) from None
    except (errors.NewConnectionError, errors.ConnectTimeoutError, errors.NameResolutionError) as e:
        raise UnreachableError(
            f"{where} does not answer ({_short(e)}). Is the address right, and does the "
            "port-forward run (kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80)?"
        ) from None
    except errors.ReadTimeoutError:
        raise UnsureError(
            f"{where} gave no answer within {given.read_seconds} s; could not {what}."
        ) from None
    except errors.SSLError as error:
        raise StorageError(
            f"{where}: its certificate is not trusted ({_short(error)}). Give the authority "
            f"with {CA_FILE}."
        ) from None
    except errors.HTTPError as error:  # a connection that broke
        raise UnsureError(
            f"{where}: the connection broke ({_short(error)}); could not {what}."
        ) from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, BirdsongError):
            raise
        raise StorageError(
            f"{where} answered something that is no KFP API, such as a login page; could not "
            f"{what}. Give the address of the UI or of the API, and credentials (--auth)."
        ) from None


def _short(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.rpartition(": ")[2][:200] or type(error).__name__


_ADVICE = {
    401: f"Give a token by {TOKEN} or {TOKEN_FILE}; the one given may have expired.",
    403: "The account lacks the right, or the namespace is missing or another user's.",
    404: "Is it the right --host, namespace and run?",
    413: "The compiled pipeline is too large for the server.",
}


def _refused(given: Access, what: str, error: Any) -> AnswerError | StorageError:
    where = f"Kubeflow Pipelines at {given.host}"
    status = int(error.status or 0)
    if status == 0:  # how kfp_server_api tells a certificate that is not trusted
        return StorageError(
            f"{where}: no secure connection ({str(error.reason).splitlines()[-1][:200]}). Give "
            f"the authority with {CA_FILE}."
        )
    if 300 <= status < 400:
        advice = "It leads elsewhere, as to a login page. " + _ADVICE[401]
    elif status >= 500:
        advice = "The server failed: see kubectl -n kubeflow logs deploy/ml-pipeline."
    else:
        advice = _ADVICE.get(status, "")
    said = _message(error.body)
    if given.token:
        said = said.replace(given.token, "(token)")
    text = f"{where} refused to {what}: {status} {error.reason or ''}".rstrip()
    text += f" ({said})." if said else "."
    return AnswerError(f"{text} {advice}".strip(), status)


def _message(body: Any) -> str:
    """What an error's body says, in one line."""
    if isinstance(body, bytes):
        body = body.decode(errors="replace")
    try:
        document = json.loads(body)
    except (TypeError, ValueError):
        return ""
    if not isinstance(document, dict):
        return ""
    text = document.get("message") or document.get("error_message") or document.get("error") or ""
    return " ".join(str(text).split())[:300]
