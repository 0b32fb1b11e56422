"""The function of the SAM application, built by its Makefile and run by Lambda's runtime client.

Events are those of function URLs (payload 2.0); S3 is moto's server, and behind SageMaker's runtime
stands birdsong's own server.
"""

import base64
import gzip
import importlib.util
import io
import json
import socket
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import made_lambda
import numpy as np
import pytest
import soundfile
from made_bundles import CODES, RATE, TONES_HZ, tone
from made_lambda import BUCKET, Aws, event

pytestmark = [
    # botocore and moto leave pooled connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

MIB = 2**20


def in_process(aws: Aws, monkeypatch: pytest.MonkeyPatch, **changed: str) -> ModuleType:
    """The handler as a module of its own, with other settings than the running function's."""
    for name, value in {**aws.environment, **changed}.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("handler", aws.folder / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wav(wave: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def problem(response: dict[str, Any], status: int, code: str) -> str:
    body = json.loads(response["body"])
    assert (response["statusCode"], body["status"], body["code"]) == (status, status, code), body
    assert response["headers"]["Content-Type"] == "application/problem+json"
    assert response["headers"]["Cache-Control"] == "no-store"
    assert body["title"]
    assert len(body["detail"]) > 20
    assert "Traceback" not in response["body"]
    return str(body["detail"])


def test_a_recording_is_heard_by_the_endpoint_as_by_the_server_itself(
    aws: Aws, server: str
) -> None:
    data = wav(tone(TONES_HZ[1]))
    key = aws.upload(data)
    response = aws.ask("POST", "/listen", {"key": key}, query="scores=frames")
    assert response["statusCode"] == 200
    answer = json.loads(response["body"])
    (window,) = answer["windows"]
    assert [found["code"] for found in window["detections"]] == [CODES[1]]
    assert set(window["frame_scores"]) == set(CODES)
    direct = httpx.post(
        f"http://{server}/invocations?scores=frames",
        content=data,
        headers={"Content-Type": "audio/wav"},
        trust_env=False,
    ).json()
    assert {**answer, "seconds": 0} == {**direct, "seconds": 0}
    assert aws.endpoint.seen == [("audio/wav", data)]


def test_what_was_heard_is_deleted_at_once(aws: Aws) -> None:
    key = aws.upload(wav(tone(TONES_HZ[0])))
    assert aws.stored() == [key]
    assert aws.ask("POST", "/listen", {"key": key})["statusCode"] == 200
    assert aws.stored() == []
    told = problem(aws.ask("POST", "/listen", {"key": key}), 404, "no-such-upload")
    assert "again" in told


def test_without_an_endpoint_of_motos_uploads_go_where_browsers_really_send_them(aws: Aws) -> None:
    environment = {
        name: value for name, value in aws.environment.items() if "ENDPOINT_URL" not in name
    }
    sent = {"name": "a.ogg", "size": 100, "type": "audio/ogg"}
    with made_lambda.function(aws.folder, environment) as function:
        given = json.loads(function.invoke(event("POST", "/uploads", sent))["body"])
    assert given["url"] == f"https://{BUCKET}.s3.eu-west-1.amazonaws.com/"


def test_the_settings_are_those_of_the_template(aws: Aws) -> None:
    response = aws.ask("GET", "/settings")
    assert response["statusCode"] == 200
    told = json.loads(response["body"])
    assert told["model"] == "birdsong-live"
    assert told["upload"] == "presigned"
    # Without access to the bucket the endpoint takes what InvokeEndpoint takes.
    assert told["largest_bytes"] == 6_291_456
    assert told["longest_seconds"] == 1800
    assert "deleted" in told["keeps"]


def test_settings_are_those_that_the_page_knows_from_the_server(aws: Aws) -> None:
    from birdsong.serving.answers import PageSettings

    PageSettings.model_validate_json(aws.ask("GET", "/settings")["body"], strict=True)


def test_every_response_forbids_the_browser_what_the_page_does_not_need(aws: Aws) -> None:
    from birdsong.serving import web

    for path in ("/settings", "/nowhere", "/listen"):
        headers = aws.ask("GET", path)["headers"]
        policy = headers["Content-Security-Policy"]
        place = aws.environment["AWS_ENDPOINT_URL_S3"]
        # As the local server's, but for the bucket.
        ours = sorted(part.strip() for part in policy.replace(f" {place}", "").split(";"))
        assert ours == sorted(
            part.strip() for part in web.HEADERS["Content-Security-Policy"].split(";")
        )
        assert place in policy
        assert {name: headers[name] for name in web.HEADERS if "Content-Sec" not in name} == {
            name: value for name, value in web.HEADERS.items() if "Content-Sec" not in name
        }
        assert headers["Strict-Transport-Security"]


def test_the_form_allows_one_file_under_one_key_of_the_size_that_was_said(aws: Aws) -> None:
    response = aws.ask("POST", "/uploads", {"name": "x.ogg", "size": 1234, "type": "audio/ogg"})
    given = json.loads(response["body"])
    policy = json.loads(base64.b64decode(given["fields"]["policy"]))
    assert ["content-length-range", 1, 1234] in policy["conditions"]
    assert {"key": given["key"]} in policy["conditions"]
    assert {"bucket": BUCKET} in policy["conditions"]
    assert {"Content-Type": "audio/ogg"} in policy["conditions"]
    assert given["fields"]["Content-Type"] == "audio/ogg"
    # Signed for the region: the general address would redirect, which a form may not follow.
    assert "/eu-west-1/s3/aws4_request" in given["fields"]["x-amz-credential"]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\x00b", "x" * 5000, "uploads/mine", "<script>", "", None, 7]
)
def test_a_files_name_is_not_used_at_all(aws: Aws, name: object) -> None:
    sent = {"name": name, "size": 10, "type": "audio/wav"}
    given = json.loads(aws.ask("POST", "/uploads", sent)["body"])
    assert given["key"].startswith("uploads/")
    assert len(given["key"]) == len("uploads/") + 32
    assert name in (None, "", 7) or str(name) not in json.dumps(given)


def test_no_two_uploads_share_a_key(aws: Aws) -> None:
    sent = {"name": "a", "size": 10, "type": ""}
    keys = {json.loads(aws.ask("POST", "/uploads", sent)["body"])["key"] for _ in range(20)}
    assert len(keys) == 20


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"name": "a", "size": 6_291_457, "type": "audio/wav"}, 413, "too-large"),
        ({"name": "a", "size": 0, "type": "audio/wav"}, 422, "empty"),
        ({"name": "a", "size": -1, "type": "audio/wav"}, 400, "size"),
        ({"name": "a", "size": "9", "type": "audio/wav"}, 400, "size"),
        ({"name": "a", "size": True, "type": "audio/wav"}, 400, "size"),
        ({"name": "a", "size": 1.5, "type": "audio/wav"}, 400, "size"),
        ({"name": "a", "type": "audio/wav"}, 400, "size"),
        ({"name": "a", "size": 9, "type": "text/html"}, 415, "not-audio"),
        ({"name": "a", "size": 9, "type": "image/png; charset=x"}, 415, "not-audio"),
        ([], 400, "no-json"),
        ("not json", 400, "no-json"),
        ("[" * 100_000, 400, "no-json"),
        (None, 400, "no-json"),
    ],
)
def test_an_upload_that_cannot_be_heard_is_refused_before_it_is_sent(
    aws: Aws, sent: object, status: int, code: str
) -> None:
    problem(aws.ask("POST", "/uploads", sent), status, code)


def test_a_type_with_what_does_not_belong_into_a_header_becomes_a_plain_one(aws: Aws) -> None:
    for kind in ("audio/x\r\nX-Evil: 1", "audio/<b>", "audio/" + "x" * 300):
        sent = {"name": "a", "size": 9, "type": kind}
        given = json.loads(aws.ask("POST", "/uploads", sent)["body"])
        assert given["fields"]["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "key",
    [
        "secrets.txt",
        "uploads/../secrets.txt",
        "uploads/" + "g" * 32,
        "uploads/" + "a" * 33,
        "uploads/" + "a" * 32 + "\n",
        "",
        None,
        7,
        {"a": 1},
    ],
)
def test_a_key_that_was_not_signed_here_is_refused(aws: Aws, key: object) -> None:
    aws.s3.put_object(Bucket=BUCKET, Key="secrets.txt", Body=b"secret")
    problem(aws.ask("POST", "/listen", {"key": key}), 400, "key")
    assert aws.endpoint.seen == []


def test_a_key_that_nobody_uploaded_to_is_told(aws: Aws) -> None:
    problem(aws.ask("POST", "/listen", {"key": "uploads/" + "a" * 32}), 404, "no-such-upload")


def test_a_larger_file_than_allowed_is_refused_and_deleted_however_it_came(aws: Aws) -> None:
    key = "uploads/" + "b" * 32
    aws.s3.put_object(Bucket=BUCKET, Key=key, Body=bytes(6_291_457))
    problem(aws.ask("POST", "/listen", {"key": key}), 413, "too-large")
    assert aws.stored() == []
    assert aws.endpoint.seen == []


@pytest.mark.parametrize("query", ["scores=everything", "scores=all&debug=1", "x=1"])
def test_an_unknown_wish_is_refused(aws: Aws, query: str) -> None:
    problem(aws.ask("POST", "/listen", {"key": "uploads/" + "a" * 32}, query=query), 400, "query")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "no-such-route"),
        ("GET", "/../handler.py", 404, "no-such-route"),
        ("GET", "/handler.py", 404, "no-such-route"),
        ("GET", "/__init__.py", 404, "no-such-route"),
        ("POST", "/settings", 405, "no-such-method"),
        ("GET", "/uploads", 405, "no-such-method"),
        ("DELETE", "/listen", 405, "no-such-method"),
    ],
)
def test_other_addresses_and_methods_are_refused(
    aws: Aws, method: str, path: str, status: int, code: str
) -> None:
    problem(aws.ask(method, path), status, code)


@pytest.mark.parametrize(
    "strange", [{}, {"Records": []}, {"version": "1.0", "path": "/", "httpMethod": "GET"}, []]
)
def test_an_event_that_is_no_request_is_answered_and_does_not_end_the_function(
    aws: Aws, strange: Any
) -> None:
    problem(aws.function.invoke(strange), 400, "no-request")


def test_a_body_in_base64_is_read_and_a_broken_one_refused(aws: Aws) -> None:
    sent = {"name": "a", "size": 9, "type": "audio/ogg"}
    assert aws.ask("POST", "/uploads", sent, encoded=True)["statusCode"] == 200
    broken = {**event("POST", "/uploads", "{}"), "body": "%%%", "isBase64Encoded": True}
    problem(aws.function.invoke(broken), 400, "no-json")


def test_what_is_wrong_with_a_recording_is_passed_on_word_by_word_and_it_is_deleted(
    aws: Aws,
) -> None:
    key = aws.upload(wav(np.zeros(RATE, np.float32)))
    told = problem(aws.ask("POST", "/listen", {"key": key}), 422, "silent")
    assert "silent" in told
    assert aws.stored() == []
    key = aws.upload(b"this is no recording", "application/octet-stream")
    problem(aws.ask("POST", "/listen", {"key": key}), 422, "unreadable")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (
            (400, "ValidationError", "Endpoint birdsong-live of account 1 not found."),
            502,
            "endpoint-absent",
        ),
        ((400, "ThrottlingException", "Rate exceeded"), 429, "busy"),
        ((429, "ModelNotReadyException", "not ready"), 503, "endpoint-starting"),
        ((503, "ServiceUnavailable", "try later"), 503, "endpoint-starting"),
        ((500, "InternalFailure", "secret detail"), 502, "endpoint-failed"),
        ((530, "InternalDependencyException", "secret detail"), 502, "endpoint-failed"),
        ((403, "AccessDeniedException", "secret detail"), 502, "endpoint-forbidden"),
    ],
)
def test_a_failing_endpoint_is_told_in_words_and_the_upload_kept_for_another_try(
    aws: Aws, failure: tuple[int, str, str], status: int, code: str
) -> None:
    key = aws.upload(wav(tone(TONES_HZ[0])))
    aws.endpoint.fails(*failure)
    response = aws.ask("POST", "/listen", {"key": key})
    told = problem(response, status, code)
    assert "secret" not in told
    assert "arn:" not in told
    assert len(aws.endpoint.seen) == 1  # not tried again behind the visitor's back
    if status in (429,):
        assert int(response["headers"]["Retry-After"]) > 0
    aws.endpoint.works()
    assert aws.ask("POST", "/listen", {"key": key})["statusCode"] == 200


def test_an_endpoint_with_another_name_is_absent(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = in_process(aws, monkeypatch, ENDPOINT_NAME="stopped-yesterday")
    key = aws.upload(wav(tone(TONES_HZ[0])))
    problem(handler.handle(event("POST", "/listen", {"key": key}), None), 502, "endpoint-absent")


@pytest.mark.parametrize(
    ("original", "message", "status", "code"),
    [
        (0, "Your invocation timed out while waiting for a response", 504, "endpoint-slow"),
        (500, '{"code": "internal", "detail": "Traceback"}', 502, "endpoint-failed"),
        (502, "<html>bad gateway</html>", 502, "endpoint-failed"),
        (503, '{"code": "busy", "detail": "The queue is full."}', 503, "busy"),
        (403, '{"code": "uri-not-allowed", "detail": "x"}', 502, "endpoint-forbidden"),
        (422, '{"code": "silent"}', 502, "endpoint-failed"),
        (422, "[]", 502, "endpoint-failed"),
        (None, "", 502, "endpoint-failed"),
    ],
)
def test_what_the_container_says_is_passed_on_where_it_is_a_problem_of_ours(
    aws: Aws, original: int | None, message: str, status: int, code: str
) -> None:
    key = aws.upload(wav(tone(TONES_HZ[0])))
    more = {"OriginalMessage": message, "LogStreamArn": "arn:secret"}
    if original is not None:
        more["OriginalStatusCode"] = original
    aws.endpoint.fails(424, "ModelError", "Received error from primary", **more)
    response = aws.ask("POST", "/listen", {"key": key})
    body = json.loads(response["body"])
    assert (response["statusCode"], body["code"]) == (status, code)
    assert "secret" not in response["body"]
    assert "Traceback" not in response["body"]


def test_an_endpoint_that_does_not_answer_in_time_is_told(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        handler = in_process(aws, monkeypatch, AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=address)
        handler.ENDPOINT_SECONDS = 1
        key = aws.upload(wav(tone(TONES_HZ[0])))
        started = time.monotonic()
        response = handler.handle(event("POST", "/listen", {"key": key}), None)
        assert time.monotonic() - started < 5
        told = problem(response, 504, "endpoint-slow")
        assert "1 s" in told
        assert key in aws.stored()
    # Now nobody listens there.
    response = handler.handle(event("POST", "/listen", {"key": key}), None)
    problem(response, 502, "endpoint-unreachable")


def test_a_long_recording_goes_by_its_place_where_the_endpoint_may_read_it(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = in_process(aws, monkeypatch, ENDPOINT_READS_UPLOADS="yes")
    settings = json.loads(handler.handle(event("GET", "/settings"), None)["body"])
    assert settings["largest_bytes"] == 64 * MIB
    sizes = {1: "audio/x-wav", 6_291_456: "audio/x-wav", 6_291_457: "application/json"}
    for size, kind in sizes.items():
        key = "uploads/" + f"{size:032x}"
        aws.s3.put_object(Bucket=BUCKET, Key=key, Body=bytes(size), ContentType="audio/x-wav")
        aws.endpoint.seen.clear()
        aws.endpoint.fails(503, "ServiceUnavailable")
        handler.handle(event("POST", "/listen", {"key": key}), None)
        ((sent, body),) = aws.endpoint.seen
        assert sent == kind
        if kind == "application/json":
            assert json.loads(body) == {"uri": f"s3://{BUCKET}/{key}"}


def test_the_server_hears_a_long_recording_from_the_bucket(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The environment is the server's too: it reads the bucket with its own credentials.
    handler = in_process(aws, monkeypatch, ENDPOINT_READS_UPLOADS="yes")
    data = wav(np.tile(tone(TONES_HZ[2], 10.0), 15))
    assert len(data) > 6_291_456
    sent = {"name": "long.wav", "size": len(data), "type": "audio/wav"}
    given = json.loads(handler.handle(event("POST", "/uploads", sent), None)["body"])
    aws.s3.put_object(Bucket=BUCKET, Key=given["key"], Body=data, ContentType="audio/wav")
    response = handler.handle(event("POST", "/listen", {"key": given["key"]}), None)
    assert response["statusCode"] == 200, response["body"]
    answer = json.loads(gzip.decompress(base64.b64decode(response["body"])))
    assert [window["start_seconds"] for window in answer["windows"]] == [0.0, 60.0, 120.0]
    assert {found["code"] for window in answer["windows"] for found in window["detections"]} == {
        CODES[2]
    }
    ((kind, body),) = aws.endpoint.seen
    assert kind == "application/json"
    assert len(body) < 200
    assert aws.stored() == []


def test_an_answer_that_lambda_could_not_send_is_told(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = in_process(aws, monkeypatch)
    handler.LARGEST_ANSWER = 100
    key = aws.upload(wav(tone(TONES_HZ[0])))
    response = handler.handle(event("POST", "/listen", {"key": key}), None)
    assert "shorter" in problem(response, 413, "answer-too-large")


def test_a_missing_setting_is_an_error_without_its_inside(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = in_process(aws, monkeypatch, LARGEST_MEGABYTES="many")
    told = problem(handler.handle(event("GET", "/settings"), None), 500, "internal")
    assert "many" not in told


def test_the_zip_holds_the_handler_and_the_page_and_no_more(aws: Aws) -> None:
    source = made_lambda.FOLDER.parent / "page"
    there = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    built = {path.relative_to(aws.folder).as_posix() for path in aws.folder.rglob("*.*")}
    built = {name for name in built if "__pycache__" not in name}
    assert built == {"handler.py", *(f"page/{name}" for name in there)}


def test_the_pages_files_are_sent_as_they_are(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handler = in_process(aws, monkeypatch)
    (tmp_path / "vendor").mkdir()
    (tmp_path / "index.html").write_text("<p>Vögel</p>")
    (tmp_path / "vendor" / "a.png").write_bytes(bytes(range(256)))
    (tmp_path / "notes.txt").write_text("not of the page")
    handler._web = handler.Web(aws.environment, tmp_path)
    for path, kind, data in [
        ("/", "text/html; charset=utf-8", "<p>Vögel</p>".encode()),
        ("/vendor/a.png", "image/png", bytes(range(256))),
    ]:
        response = handler.handle(event("GET", path), None)
        assert response["statusCode"] == 200
        assert response["headers"]["Content-Type"] == kind
        assert "max-age" in response["headers"]["Cache-Control"]
        assert base64.b64decode(response["body"]) == data
        assert handler.handle(event("HEAD", path), None)["body"] == ""
    problem(handler.handle(event("GET", "/notes.txt"), None), 404, "no-such-route")
    problem(handler.handle(event("POST", "/"), None), 405, "no-such-method")
