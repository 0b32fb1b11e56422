"""What is said of AWS' refusals, beside what tests/cloud provokes on the test server."""

from birdsong.aws import refusals


def test_a_quota_is_named_as_aws_names_it_and_none_is_guessed() -> None:
    named = refusals.quota("The limit 'ml.g4dn.xlarge for spot' is 0 Instances.", "eu-west-1")
    assert "used up: ml.g4dn.xlarge for spot." in named
    assert "search 'ml.g4dn.xlarge for spot'" in named
    unnamed = refusals.quota("Limit exceeded.", "eu-west-1")
    assert "used up. AWS says: Limit exceeded." in unnamed
    assert "ml." not in unnamed
