"""The SAM template, expanded as AWS expands it, with and without what its parameters turn on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "birdsong" / "serving" / "sam"
TEMPLATE = FOLDER / "template.yaml"
ACCOUNT, STACK = "123456789012", "0b1c2d3e-1111-2222-3333-444455556666"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "birds",
    "AWS::StackId": f"arn:aws:cloudformation:us-east-1:{ACCOUNT}:stack/birds/{STACK}",
}
PLAIN = {"EndpointName": "birdsong-live"}
FULL = {
    **PLAIN,
    "EndpointRoleArn": f"arn:aws:iam::{ACCOUNT}:role/endpoint",
    "RequestsPerFiveMinutes": 100,
    "DomainName": "birds.example.org",
    "CertificateArn": f"arn:aws:acm:us-east-1:{ACCOUNT}:certificate/4-2",
    "HostedZoneId": "Z0123456789",
    "AlarmEmail": "someone@example.org",
}


@pytest.fixture(scope="module")
def expanded() -> dict[str, Any]:
    """The template as CloudFormation gets it from SAM."""
    return expand(TEMPLATE.read_text())


def expand(text: str) -> dict[str, Any]:
    from samtranslator.translator.managed_policy_translator import ManagedPolicyLoader
    from samtranslator.translator.transform import transform
    from samtranslator.yaml_helper import yaml_parse

    class Offline(ManagedPolicyLoader):  # type: ignore[misc]
        def __init__(self) -> None:
            name = "AWSLambdaBasicExecutionRole"
            self._policy_map = {name: f"arn:aws:iam::aws:policy/service-role/{name}"}
            self.max_items = 1000

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        template = yaml_parse(text)
        # What `sam deploy` does before: it uploads the zip.
        template["Resources"]["Web"]["Properties"]["CodeUri"] = "s3://made-by-sam/zip"
        found = transform(template, {}, Offline())
    return dict(json.loads(json.dumps(found)))


def resolved(template: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The template with parameters and conditions put in, so that only what is made is there."""
    values = {
        name: given.get(name, about.get("Default"))
        for name, about in template["Parameters"].items()
    } | PSEUDO
    nothing = object()

    def value(node: Any) -> Any:
        if isinstance(node, list):
            return [found for item in node if (found := value(item)) is not nothing]
        if not isinstance(node, dict):
            return node
        if set(node) == {"Ref"} and node["Ref"] == "AWS::NoValue":
            return nothing
        if set(node) == {"Ref"}:
            return values.get(node["Ref"], node)
        if "Fn::Equals" in node:
            left, right = value(node["Fn::Equals"])
            return str(left) == str(right)
        if "Fn::Not" in node:
            return not value(node["Fn::Not"])[0]
        if "Fn::If" in node:
            name, yes, no = node["Fn::If"]
            return value(yes if holds(name) else no)
        if "Fn::Select" in node:
            number, items = value(node["Fn::Select"])
            return (
                items[int(number)] if isinstance(items, list) else {"Fn::Select": [number, items]}
            )
        if "Fn::Split" in node:
            mark, text = value(node["Fn::Split"])
            return text.split(mark) if isinstance(text, str) else {"Fn::Split": [mark, text]}
        if "Fn::Sub" in node:
            text, more = node["Fn::Sub"], {}
            if isinstance(text, list):
                text, more = text[0], value(text[1])
            for name, found in {**values, **more}.items():
                if isinstance(found, str | int):
                    text = text.replace(f"${{{name}}}", str(found))
            left = {name: found for name, found in more.items() if f"${{{name}}}" in text}
            if "${" not in text:
                return text
            return {"Fn::Sub": [text, left] if left else text}
        return {key: found for key, item in node.items() if (found := value(item)) is not nothing}

    def holds(name: str) -> bool:
        return bool(value(template["Conditions"][name]))

    return {
        part: {
            name: value({key: item for key, item in about.items() if key != "Condition"})
            for name, about in template[part].items()
            if "Condition" not in about or holds(about["Condition"])
        }
        for part in ("Resources", "Outputs")
    }


def of_type(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {
        name: about["Properties"]
        for name, about in template["Resources"].items()
        if about["Type"] == kind
    }


def one(template: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = of_type(template, kind).values()
    return found


@pytest.fixture(scope="module", params=[PLAIN, FULL], ids=["plain", "full"])
def stack(request: pytest.FixtureRequest, expanded: dict[str, Any]) -> dict[str, Any]:
    return resolved(expanded, request.param)


@pytest.fixture(scope="module")
def plain(expanded: dict[str, Any]) -> dict[str, Any]:
    return resolved(expanded, PLAIN)


@pytest.fixture(scope="module")
def full(expanded: dict[str, Any]) -> dict[str, Any]:
    return resolved(expanded, FULL)


def test_the_linter_has_nothing_to_say_in_any_form(
    expanded: dict[str, Any], plain: dict[str, Any], full: dict[str, Any], tmp_path: Path
) -> None:
    files = [TEMPLATE]
    for name, form in {"expanded": expanded, "plain": plain, "full": full}.items():
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", **form}))
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run(
        [linter, "--regions", "us-east-1", "--", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_wrong_kind_of_access_is_refused_by_the_translator() -> None:
    # The linter lets it pass, so the expansion is part of the test.
    from samtranslator.model.exceptions import InvalidDocumentException

    right = "FunctionUrlConfig:\n        AuthType: AWS_IAM"
    assert right in TEMPLATE.read_text()
    with pytest.raises(InvalidDocumentException, match="AuthType"):
        expand(TEMPLATE.read_text().replace(right, right.replace("AWS_IAM", "MAYBE")))


def test_nobody_but_this_distribution_reaches_the_function(stack: dict[str, Any]) -> None:
    assert one(stack, "AWS::Lambda::Url")["AuthType"] == "AWS_IAM"
    allowed = of_type(stack, "AWS::Lambda::Permission")
    # Since October 2025 a function URL needs both.
    assert {one["Action"] for one in allowed.values()} == {
        "lambda:InvokeFunctionUrl",
        "lambda:InvokeFunction",
    }
    for permission in allowed.values():
        assert permission["Principal"] == "cloudfront.amazonaws.com"
        assert permission["SourceArn"] == {
            "Fn::Sub": f"arn:aws:cloudfront::{ACCOUNT}:distribution/${{Distribution}}"
        }
        by_url = permission.get("InvokedViaFunctionUrl") or permission.get("FunctionUrlAuthType")
        assert by_url in (True, "AWS_IAM")
    control = one(stack, "AWS::CloudFront::OriginAccessControl")["OriginAccessControlConfig"]
    assert control["OriginAccessControlOriginType"] == "lambda"
    assert (control["SigningBehavior"], control["SigningProtocol"]) == ("always", "sigv4")
    (origin,) = one(stack, "AWS::CloudFront::Distribution")["DistributionConfig"]["Origins"]
    assert origin["OriginAccessControlId"] == {"Ref": "SignedAccess"}
    assert origin["CustomOriginConfig"]["OriginProtocolPolicy"] == "https-only"


def test_no_bucket_is_public_and_uploads_are_forgotten(stack: dict[str, Any]) -> None:
    buckets = of_type(stack, "AWS::S3::Bucket")
    assert list(buckets) == ["Uploads"]
    bucket = buckets["Uploads"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert "AccessControl" not in bucket
    assert "VersioningConfiguration" not in bucket  # or what is deleted would be kept
    (rule,) = bucket["LifecycleConfiguration"]["Rules"]
    assert (rule["Status"], rule["ExpirationInDays"]) == ("Enabled", 1)
    assert "Prefix" not in rule


def test_the_bucket_speaks_tls_only_and_allows_nobody_else_to_write(stack: dict[str, Any]) -> None:
    policy = one(stack, "AWS::S3::BucketPolicy")["PolicyDocument"]["Statement"]
    (deny,) = [line for line in policy if line["Effect"] == "Deny"]
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert (deny["Principal"], deny["Action"], len(deny["Resource"])) == ("*", "s3:*", 2)
    for line in policy:
        if line["Effect"] == "Allow":
            assert line["Action"] == "s3:GetObject"
            assert line["Principal"] == {"AWS": FULL["EndpointRoleArn"]}


def test_only_the_pages_own_address_may_upload(plain: dict[str, Any], full: dict[str, Any]) -> None:
    def origins(stack: dict[str, Any]) -> list[Any]:
        (rule,) = one(stack, "AWS::S3::Bucket")["CorsConfiguration"]["CorsRules"]
        assert rule["AllowedMethods"] == ["POST"]
        return list(rule["AllowedOrigins"])

    assert origins(full) == ["https://birds.example.org"]
    assert origins(plain) == [
        {
            "Fn::Sub": [
                "https://${Name}",
                {"Name": {"Fn::GetAtt": ["Distribution", "DomainName"]}},
            ]
        }
    ]


def test_the_function_may_do_no_more_than_it_does(stack: dict[str, Any]) -> None:
    role = one(stack, "AWS::IAM::Role")
    assert role["ManagedPolicyArns"] == [
        "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
    ]
    (policy,) = role["Policies"]
    allowed = {line["Resource"]: line["Action"] for line in policy["PolicyDocument"]["Statement"]}
    assert allowed == {
        f"arn:aws:s3:::birdsong-uploads-{STACK}/uploads/*": [
            "s3:PutObject",
            "s3:GetObject",
            "s3:DeleteObject",
        ],
        f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint/birdsong-live": "sagemaker:InvokeEndpoint",
    }


def test_function_and_bucket_mean_the_same_bucket(stack: dict[str, Any]) -> None:
    # By a name that both make, since a reference would go round in a circle.
    name = one(stack, "AWS::S3::Bucket")["BucketName"]
    assert name == f"birdsong-uploads-{STACK}"
    assert len(name) <= 63
    variables = one(stack, "AWS::Lambda::Function")["Environment"]["Variables"]
    assert variables["UPLOADS_BUCKET"] == name


def test_requests_are_throttled(expanded: dict[str, Any], full: dict[str, Any]) -> None:
    assert one(full, "AWS::Lambda::Function")["ReservedConcurrentExecutions"] == 5
    none = resolved(expanded, {**PLAIN, "ReservedConcurrency": 0})
    assert "ReservedConcurrentExecutions" not in one(none, "AWS::Lambda::Function")
    assert "WebACLId" not in one(none, "AWS::CloudFront::Distribution")["DistributionConfig"]
    rate = one(full, "AWS::WAFv2::WebACL")
    (rule,) = rate["Rules"]
    assert rule["Statement"]["RateBasedStatement"]["Limit"] == 100
    told = rate["CustomResponseBodies"]["TooMany"]["Content"]
    assert json.loads(told)["status"] == 429
    used = one(full, "AWS::CloudFront::Distribution")["DistributionConfig"]["WebACLId"]
    assert used == {"Fn::GetAtt": ["RateRule", "Arn"]}


def test_a_domain_of_ones_own_has_its_certificate_and_records(
    plain: dict[str, Any], full: dict[str, Any]
) -> None:
    config = one(full, "AWS::CloudFront::Distribution")["DistributionConfig"]
    assert config["Aliases"] == ["birds.example.org"]
    assert config["ViewerCertificate"] == {
        "AcmCertificateArn": FULL["CertificateArn"],
        "SslSupportMethod": "sni-only",
        "MinimumProtocolVersion": "TLSv1.2_2021",
    }
    records = one(full, "AWS::Route53::RecordSetGroup")["RecordSets"]
    assert {record["Type"] for record in records} == {"A", "AAAA"}
    assert full["Outputs"]["Page"]["Value"] == "https://birds.example.org/"
    config = one(plain, "AWS::CloudFront::Distribution")["DistributionConfig"]
    assert "Aliases" not in config
    assert config["ViewerCertificate"] == {"CloudFrontDefaultCertificate": True}
    assert not of_type(plain, "AWS::Route53::RecordSetGroup")


def test_wrong_wishes_are_refused_before_anything_is_made(expanded: dict[str, Any]) -> None:
    told = {
        name: rule["Assertions"][0]["AssertDescription"] for name, rule in expanded["Rules"].items()
    }
    assert set(told) == {
        "DomainHasCertificate",
        "ZoneHasDomain",
        "RateRuleIsWhereCloudFrontLooks",
    }
    assert all(text.endswith(".") for text in told.values())


def test_logs_end_and_alarms_are_optional(plain: dict[str, Any], full: dict[str, Any]) -> None:
    assert one(plain, "AWS::Logs::LogGroup")["RetentionInDays"] == 30
    assert one(plain, "AWS::Lambda::Function")["LoggingConfig"] == {"LogGroup": {"Ref": "Logs"}}
    assert not of_type(plain, "AWS::CloudWatch::Alarm")
    assert len(of_type(full, "AWS::CloudWatch::Alarm")) == 2


def test_cloudfront_waits_longer_than_the_function_waits_for_the_endpoint(
    stack: dict[str, Any],
) -> None:
    import re

    source = (FOLDER / "handler.py").read_text()
    (waits,) = map(int, re.findall(r"^ENDPOINT_SECONDS = (\d+)", source, re.M))
    function = one(stack, "AWS::Lambda::Function")
    (origin,) = one(stack, "AWS::CloudFront::Distribution")["DistributionConfig"]["Origins"]
    assert waits < function["Timeout"] <= origin["CustomOriginConfig"]["OriginReadTimeout"]


def test_the_template_has_no_aliases_which_cloudformation_does_not_read() -> None:
    import yaml

    events = yaml.parse(TEMPLATE.read_text())
    assert not [event for event in events if isinstance(event, yaml.AliasEvent)]
