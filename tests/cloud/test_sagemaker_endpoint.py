"""Deploy to SageMaker, on the test server: what passed the gate is served, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_endpoints import deploy, names, register, served
from sagemaker_server.faults import KINDS
from sagemaker_server.server import REGION, Server

from birdsong.aws import calls, endpoint
from birdsong.aws.endpoint_options import EndpointOptions
from birdsong.cli import main as command_line
from birdsong.config import DeployConfig
from birdsong.errors import ConfigError, DataError
from birdsong.golden_gate import GateError

pytestmark = [
    pytest.mark.usefixtures("in_deploy"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


def test_a_version_is_deployed_checked_and_left_alone_when_nothing_changed(
    tmp_path: Path,
    server: Server,
) -> None:
    version = register(tmp_path / "a")
    first = deploy(version, tmp_path / "e1")
    assert (first["state"], first["action"], first["previous"]) == ("checked", "created", "")
    assert [row["difference"] for row in first["golden"]] == [0, 0]
    second = deploy(version, tmp_path / "e2")
    assert (second["action"], second["config"]) == ("unchanged", first["config"])
    made = [call for call in server.faults.calls if call.startswith(("Create", "Update"))]
    assert [call for call in made if "Endpoint" in call or call == "CreateModel"] == [
        *("CreateModel", "CreateEndpointConfig", "CreateEndpoint")
    ]
    (config,) = server.hosting.configs.values()
    assert "DataCaptureConfig" not in config
    assert all(len(names) == 1 for names in names(server))


def test_a_pending_version_is_passed_over_until_somebody_approves_it(
    tmp_path: Path,
    server: Server,
) -> None:
    version = register(tmp_path / "a", approval="manual")
    found = deploy(version, tmp_path / "e1")
    assert found["state"] == "passed over"
    assert "update-model-package --model-approval-status Approved" in found["reason"]
    assert names(server) == (set(), set(), set())
    (arn,) = server.registry.packages
    calls.client("sagemaker", REGION).update_model_package(
        ModelPackageArn=arn, ModelApprovalStatus="Approved"
    )
    assert deploy(version, tmp_path / "e2")["action"] == "created"


def test_updates_keep_the_last_two_configurations_and_a_rollback_exchanges_them(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = [deploy(register(tmp_path / note, note=note), tmp_path / f"e-{note}") for note in "abc"]
    assert [one["action"] for one in found] == ["created", "updated", "updated"]
    assert found[2]["previous"] == found[1]["config"]
    assert names(server)[1] == {found[1]["config"], found[2]["config"]}
    assert len(names(server)[2]) == 2

    def command(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["birdsong", "endpoint", *words])
        code = command_line.main()
        out = capsys.readouterr()
        return code, out.out + out.err

    code, text = command("show", "birdsong", "--json")
    shown = json.loads(text)
    assert (code, shown["state"], shown["before"]) == (0, "InService", found[1]["config"])
    assert shown["version"].endswith("model-package/birdsong/3")
    assert "no hosting rate" in shown["costs"]
    assert command("rollback", "birdsong", "--yes")[0] == 0
    assert served(server) == found[1]["config"]
    assert command("rollback", "birdsong", "--yes")[0] == 0
    assert served(server) == found[2]["config"]
    assert "2 configurations with their models" in command("delete", "birdsong", "--yes")[1]
    assert names(server) == (set(), set(), set())
    code, text = command("show", "birdsong")
    assert (code, "There is no endpoint birdsong" in text) == (2, True)


def test_a_model_that_scores_otherwise_is_rolled_back_and_the_step_fails_with_the_comparison(
    tmp_path: Path,
    server: Server,
) -> None:
    good = deploy(register(tmp_path / "a"), tmp_path / "e1")
    before = names(server)
    with pytest.raises(GateError, match=r"too large[\s\S]*serves .* again, as before") as caught:
        deploy(register(tmp_path / "b", note="bad"), tmp_path / "e2")
    assert good["config"] in str(caught.value)
    assert not (tmp_path / "e2").exists()
    assert served(server) == good["config"]
    assert names(server) == before


def test_a_first_model_that_scores_otherwise_leaves_no_endpoint(
    tmp_path: Path,
    server: Server,
) -> None:
    with pytest.raises(GateError, match="nothing to go back to, so it was deleted"):
        deploy(register(tmp_path / "a", note="bad"), tmp_path / "e")
    assert names(server) == (set(), set(), set())


def test_a_model_that_answers_too_slowly_is_rolled_back(
    tmp_path: Path,
    server: Server,
) -> None:
    good = deploy(register(tmp_path / "a"), tmp_path / "e1", latency_ms=5000)
    with pytest.raises(GateError, match=r"median answer took \d+ ms, the budget is 150 ms"):
        deploy(register(tmp_path / "b", note="slow"), tmp_path / "e2", latency_ms=150)
    assert served(server) == good["config"]


def test_an_endpoint_that_passed_stays_when_it_is_slow_in_a_later_check(
    tmp_path: Path,
    server: Server,
) -> None:
    version = register(tmp_path / "a", note="slow")
    good = deploy(version, tmp_path / "e1")
    before = names(server)
    with pytest.raises(GateError, match=r"budget is 150 ms[\s\S]*was not changed by this step"):
        deploy(version, tmp_path / "e2", latency_ms=150)
    assert served(server) == good["config"]
    assert names(server) == before


def test_a_container_that_does_not_start_keeps_the_old_one_though_the_state_is_in_service(
    tmp_path: Path,
    server: Server,
) -> None:
    deploy(register(tmp_path / "a"), tmp_path / "e1")
    before = names(server)
    with pytest.raises(DataError, match=r"went back to .*ping health check"):
        deploy(register(tmp_path / "b", note="crash"), tmp_path / "e2")
    assert server.hosting.endpoints[REGION, "birdsong"].status == "InService"
    assert names(server) == before


def test_an_endpoint_that_failed_when_it_was_made_is_made_anew(
    tmp_path: Path,
    server: Server,
) -> None:
    with pytest.raises(DataError, match=r"is Failed: .*ping health check"):
        deploy(register(tmp_path / "a", note="crash"), tmp_path / "e1")
    found = deploy(register(tmp_path / "b"), tmp_path / "e2")
    assert found["action"] == "recreated"
    assert all(len(names) == 1 for names in names(server))


def test_an_alarm_during_an_update_keeps_the_old_configuration(
    tmp_path: Path,
    server: Server,
) -> None:
    options = json.dumps({"alarms": ["birds-5xx"], "bake_minutes": 1})
    good = deploy(register(tmp_path / "a"), tmp_path / "e1", endpoint_options=options)
    server.alarms.add("birds-5xx")
    with pytest.raises(DataError, match=r"alarm went off.*birds-5xx"):
        deploy(register(tmp_path / "b", note="b"), tmp_path / "e2", endpoint_options=options)
    there = server.hosting.endpoints[REGION, "birdsong"]
    assert there.config == good["config"]
    guard = there.deployment
    assert guard["AutoRollbackConfiguration"]["Alarms"] == [{"AlarmName": "birds-5xx"}]
    routing = guard["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert routing["WaitIntervalInSeconds"] == 60


def test_a_serverless_endpoint_gets_memory_and_no_instances(
    tmp_path: Path,
    server: Server,
) -> None:
    options = json.dumps({"memory_mb": 3072, "concurrency": 2})
    deploy(
        register(tmp_path / "a"), tmp_path / "e", instance="serverless", endpoint_options=options
    )
    (config,) = server.hosting.configs.values()
    (variant,) = config["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 3072, "MaxConcurrency": 2}
    assert "InstanceType" not in variant


def test_keys_private_subnets_and_capture_reach_the_requests(
    tmp_path: Path,
    server: Server,
) -> None:
    options = {
        "kms_key": "alias/birds",
        "subnets": ["subnet-1"],
        "security_groups": ["sg-1"],
        "capture_percent": 10,
    }
    deploy(register(tmp_path / "a"), tmp_path / "e", endpoint_options=json.dumps(options))
    (config,) = server.hosting.configs.values()
    (model,) = server.hosting.models.values()
    assert config["KmsKeyId"] == "alias/birds"
    assert config["DataCaptureConfig"]["InitialSamplingPercentage"] == 10
    assert model["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"endpoint_role": ""}, "endpoint_role is empty"),
    ({"endpoint_role": "birdsong"}, "endpoint_role"),
    ({"instance": "m5.xlarge"}, "instance"),
    ({"endpoint_options": "{"}, "no JSON"),
    ({"endpoint_options": "[]"}, "needs a JSON object"),
    ({"endpoint_options": '{"lunch": 1}'}, "lunch"),
    ({"endpoint_options": '{"subnets": ["a"]}'}, "go together"),
    ({"endpoint_options": '{"memory_mb": 1}'}, "memory_mb"),
    (
        {"instance": "serverless", "endpoint_options": '{"alarms": ["a"]}'},
        "serverless endpoints take no alarms",
    ),
]


def test_settings_that_do_not_fit_are_refused_before_anything_is_made(
    tmp_path: Path,
    server: Server,
) -> None:
    version = register(tmp_path / "a")
    for settings, told in UNFIT:
        with pytest.raises(ConfigError, match=told):
            deploy(version, tmp_path / "e", **settings)
        assert names(server) == (set(), set(), set())
    assert EndpointOptions().capture_percent == 0
    assert DeployConfig().endpoint_options == ""


# --- faults ---------------------------------------------------------------------------------------

FIRST = (
    *("DescribeModelPackage", "DescribeEndpoint", "DescribeModel", "DescribeEndpointConfig"),
    *("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "InvokeEndpoint"),
    *("AddTags", "ListEndpointConfigs", "ListModels"),
)
THIRD = ("AddTags", "UpdateEndpoint", "DeleteEndpointConfig", "DeleteModel")
QUICK = {("CreateEndpoint", "reset"), ("UpdateEndpoint", "reset")}


def _faults(actions: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(action, kind, marks=[] if (action, kind) in QUICK else [pytest.mark.slow])
        for action in actions
        for kind in KINDS
    ]


@pytest.mark.parametrize(("action", "kind"), _faults(FIRST))
def test_a_failure_of_any_call_of_a_first_deploy_leaves_one_endpoint(
    tmp_path: Path,
    server: Server,
    action: str,
    kind: str,
) -> None:
    version = register(tmp_path / "a")
    server.faults.add(action, kind)
    found = deploy(version, tmp_path / "e")
    assert [met[0] for met in server.faults.met] == [action]
    assert found["state"] == "checked"
    assert all(len(names) == 1 for names in names(server))


@pytest.mark.parametrize(("action", "kind"), _faults(THIRD))
def test_a_failure_of_any_call_of_an_update_leaves_two_configurations(
    tmp_path: Path,
    server: Server,
    action: str,
    kind: str,
) -> None:
    for note in "ab":
        deploy(register(tmp_path / note, note=note), tmp_path / f"e-{note}")
    version = register(tmp_path / "c", note="c")
    server.faults.add(action, kind)
    found = deploy(version, tmp_path / "e")
    assert [met[0] for met in server.faults.met] == [action]
    assert found["action"] == "updated"
    there = server.hosting.endpoints[REGION, "birdsong"]
    assert there.config == found["config"]
    assert [len(names) for names in names(server)] == [1, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_of_deleting_leaves_nothing(
    tmp_path: Path,
    server: Server,
    kind: str,
) -> None:
    deploy(register(tmp_path / "a"), tmp_path / "e")
    for action in ("DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel"):
        server.faults.add(action, kind)
    endpoint.Endpoint("birdsong", REGION).delete()
    assert names(server) == (set(), set(), set())


@pytest.mark.slow
def test_the_real_server_answers_on_an_endpoint_as_it_was_measured(
    tmp_path: Path,
    server: Server,
) -> None:
    from sagemaker_server.serving import SERVE

    server.serves = SERVE
    good = deploy(register(tmp_path / "a", saved_model=True), tmp_path / "e1")
    assert good["largest_difference"] < 1e-4
    assert good["runtime"] == "tensorflow"
    bad = register(tmp_path / "b", saved_model=True, golden_shift=0.2, note="b")
    with pytest.raises(GateError, match="too large"):
        deploy(bad, tmp_path / "e2")
    assert served(server) == good["config"]
