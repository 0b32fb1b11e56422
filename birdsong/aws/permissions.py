"""The smallest policies, filled in; and a CloudFormation template with bucket, role and policy.

The policies are the files in `policies/`, with placeholders as CloudFormation has them. The
template is made of them, so that there is one source.
"""

import json
import re
from pathlib import Path
from typing import Any

from birdsong.errors import ConfigError

FOLDER = Path(__file__).with_name("policies")
PIPELINE, JOB, JOB_IN_VPC = "pipeline", "job", "job-vpc"
CHECKPOINT_DAYS, UPLOAD_DAYS = 30, 7

_FORMS = {
    "account": (r"\d{12}", "twelve digits"),
    "region": (r"[a-z]{2}(-[a-z]+)+-\d", "as eu-west-1"),
    "bucket": (r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name"),
    "name": (r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,40}", "letters, digits and single hyphens"),
}


def policy(which: str) -> dict[str, Any]:
    """A policy with its placeholders."""
    found: dict[str, Any] = json.loads((FOLDER / f"{which}.json").read_text())
    return found


def filled(which: str, account: str, region: str, bucket: str, name: str) -> dict[str, Any]:
    """A policy for an account.

    Args:
        which: pipeline, job or job-vpc.
        account: Its twelve digits.
        region: As eu-west-1.
        bucket: Of features, checkpoints, models and bundles.
        name: How groups, endpoints and the role `NAME-job` begin; birdsong, unless model_name or
            endpoint_name are others.

    Raises:
        ConfigError: A value is not in its form.
    """
    for what, value in (
        ("account", account),
        ("region", region),
        ("bucket", bucket),
        ("name", name),
    ):
        form, words = _FORMS[what]
        if not re.fullmatch(form, value):
            raise ConfigError(f"{what} is {value!r}, expected {words}.")
    text = (FOLDER / f"{which}.json").read_text()
    partition = "aws-cn" if region.startswith("cn-") else "aws"
    partition = "aws-us-gov" if region.startswith("us-gov-") else partition
    for placeholder, value in (
        ("AWS::Partition", partition),
        ("AWS::AccountId", account),
        ("AWS::Region", region),
        ("Bucket", bucket),
        ("Name", name),
    ):
        text = text.replace(f"${{{placeholder}}}", value)
    found: dict[str, Any] = json.loads(text)
    return found


def template() -> dict[str, Any]:
    """A CloudFormation template: a closed bucket, the role of jobs, the policy of the pipeline."""
    everything = ["arn:${AWS::Partition}:s3:::${Bucket}", "arn:${AWS::Partition}:s3:::${Bucket}/*"]
    tls_only = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "OnlyByTls",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": everything,
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"aws:SourceAccount": "${AWS::AccountId}"}},
            }
        ],
    }
    in_vpc = {"Fn::If": ["InVpc", _inline(JOB_IN_VPC), {"Ref": "AWS::NoValue"}]}
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "birdsong on SageMaker: bucket, role of jobs and endpoints, policy.",
        "Parameters": {
            "Name": {
                "Type": "String",
                "Default": "birdsong",
                "AllowedPattern": f"^{_FORMS['name'][0]}$",
                "Description": "How model package groups, endpoints and the role NAME-job begin.",
            },
            "Prefix": {
                "Type": "String",
                "Default": "birdsong",
                "Description": "Prefix in the bucket, as in place and registry.",
            },
            "Vpc": {
                "Type": "String",
                "Default": "no",
                "AllowedValues": ["no", "yes"],
                "Description": "Whether jobs and endpoints run in subnets of yours.",
            },
        },
        "Conditions": {"InVpc": {"Fn::Equals": [{"Ref": "Vpc"}, "yes"]}},
        "Resources": {
            "Bucket": {
                "Type": "AWS::S3::Bucket",
                "DeletionPolicy": "Retain",
                "UpdateReplacePolicy": "Retain",
                "Properties": {
                    "PublicAccessBlockConfiguration": {
                        "BlockPublicAcls": True,
                        "BlockPublicPolicy": True,
                        "IgnorePublicAcls": True,
                        "RestrictPublicBuckets": True,
                    },
                    "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
                    "BucketEncryption": {
                        "ServerSideEncryptionConfiguration": [
                            {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
                        ]
                    },
                    "LifecycleConfiguration": {
                        "Rules": [
                            {
                                "Id": "checkpoints",
                                "Status": "Enabled",
                                "Prefix": {"Fn::Sub": "${Prefix}/checkpoints/"},
                                "ExpirationInDays": CHECKPOINT_DAYS,
                            },
                            {
                                "Id": "broken-uploads",
                                "Status": "Enabled",
                                "AbortIncompleteMultipartUpload": {
                                    "DaysAfterInitiation": UPLOAD_DAYS
                                },
                            },
                        ]
                    },
                },
            },
            "BucketPolicy": {
                "Type": "AWS::S3::BucketPolicy",
                "Properties": {"Bucket": {"Ref": "Bucket"}, "PolicyDocument": _sub(tls_only)},
            },
            "JobRole": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "RoleName": {"Fn::Sub": "${Name}-job"},
                    "AssumeRolePolicyDocument": _sub(trust),
                    "Policies": [_inline(JOB), in_vpc],
                },
            },
            "PipelinePolicy": {
                "Type": "AWS::IAM::ManagedPolicy",
                "Properties": {
                    "Description": "What the steps of birdsong's pipeline may do.",
                    "PolicyDocument": _sub(policy(PIPELINE)),
                },
            },
        },
        "Outputs": {
            "Bucket": {"Value": {"Ref": "Bucket"}, "Description": "place and registry lie in it."},
            "JobRole": {
                "Value": {"Fn::GetAtt": ["JobRole", "Arn"]},
                "Description": "role of jobs, endpoint_role of deploy.",
            },
            "PipelinePolicy": {
                "Value": {"Ref": "PipelinePolicy"},
                "Description": "Attach it to the role of the pods, or to your user.",
            },
        },
    }


def _inline(which: str) -> dict[str, Any]:
    return {"PolicyName": which, "PolicyDocument": _sub(policy(which))}


def _sub(value: Any) -> Any:
    """The same with CloudFormation's function around each text that has placeholders."""
    if isinstance(value, dict):
        return {name: _sub(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_sub(inner) for inner in value]
    return {"Fn::Sub": value} if isinstance(value, str) and "${" in value else value
