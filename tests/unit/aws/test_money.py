"""Money: bounds that hold, rates with their source, and no guess where a rate is not known."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from birdsong.aws import prices
from birdsong.aws.money import bill, estimate
from birdsong.errors import ConfigError, StorageError

TODAY = datetime.date(2026, 11, 25)


def _table(path: Path, usd: float = 2.0, **changed: Any) -> Path:
    entry = {
        "region": "us-east-1",
        "use": "training",
        "instance": "ml.g5.4xlarge",
        "usd_per_hour": usd,
        "source": "mine",
        **changed,
    }
    sources = {"mine": {"date": "2026-11-01", "what": "our contract", "where": "intranet"}}
    path.write_text(json.dumps({"sources": sources, "rates": [entry]}))
    return path


def _job(trained: int | None, billed: int | None, **more: Any) -> dict[str, Any]:
    resources = {"InstanceType": "ml.g5.4xlarge", "InstanceCount": 1}
    found: dict[str, Any] = {"ResourceConfig": resources, **more}
    if trained is not None:
        found["TrainingTimeInSeconds"] = trained
    if billed is not None:
        found["BillableTimeInSeconds"] = billed
    return found


def test_every_rate_of_the_package_names_a_dated_public_source() -> None:
    table = prices.load()
    assert len(table.rates) == len({(r.region, r.use, r.instance) for r in table.rates})
    for rate in table.rates:
        assert datetime.date(2020, 1, 1) < rate.date <= TODAY
        assert rate.where.startswith("https://")
        assert rate.source


def test_the_bound_counts_the_whole_run_of_all_instances_and_jobs_and_no_saving_by_spot() -> None:
    found = estimate(prices.load(), "us-east-1", "ml.g5.4xlarge", 5400, instances=2, jobs=4)
    assert found.usd == pytest.approx(1.5 * 2 * 4 * 2.03)
    assert "4 x 2 x 1 h 30 min" in str(found)
    assert "24.36 USD without any saving by spot" in str(found)
    assert "2026-07-02" in str(found)


def test_a_bound_above_the_budget_is_refused_and_one_within_is_not() -> None:
    found = estimate(prices.load(), "us-east-1", "ml.g5.4xlarge", 3600)
    found.check(0)
    found.check(2.03)
    with pytest.raises(ConfigError, match=r"2\.03 USD.*above the budget of 2\.00 USD.*nothing was"):
        found.check(2.0)


def test_an_unknown_rate_is_said_and_refused_only_where_there_is_a_budget() -> None:
    found = estimate(prices.load(), "ap-south-1", "ml.g5.4xlarge", 3600)
    assert found.usd is None
    assert "is not known" in str(found)
    found.check(0)
    with pytest.raises(ConfigError, match=r"no rate is known for ml\.g5\.4xlarge in ap-south-1"):
        found.check(1000.0)


def test_a_hosting_rate_is_not_taken_for_training() -> None:
    table = prices.load()
    assert table.rate("eu-west-1", "ml.g5.12xlarge", "hosting") is not None
    assert table.rate("eu-west-1", "ml.g5.12xlarge") is None


def test_the_users_table_stands_before_the_packages_and_only_for_what_it_names(
    tmp_path: Path,
) -> None:
    table = prices.load(_table(tmp_path / "mine.json", usd=1.25))
    rate = table.rate("us-east-1", "ml.g5.4xlarge")
    assert rate is not None
    assert (rate.usd_per_hour, rate.source) == (1.25, "our contract")
    other = table.rate("us-east-1", "ml.g5.2xlarge")
    assert other is not None
    assert other.usd_per_hour == 1.52


@pytest.mark.parametrize(
    "changed",
    [
        {"usd_per_hour": 0},
        {"usd_per_hour": -1},
        {"usd_per_hour": "2"},
        {"usd_per_hour": True},
        {"source": "nobody"},
        {"use": "lunch"},
    ],
)
def test_a_table_with_a_rate_that_is_none_or_has_no_source_is_refused(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"mine\.json is not in the form"):
        prices.load(_table(tmp_path / "mine.json", **changed))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sources": [], "rates": [{}]}', "\ufeffx"])
def test_a_file_that_is_no_table_is_refused_without_a_traceback(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(ConfigError, match="is not in the form"):
        prices.load(tmp_path / "mine.json")


def test_an_absent_table_is_said_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere\.json does not exist"):
        prices.load(tmp_path / "nowhere.json")


def test_a_bill_sums_jobs_and_says_seconds_percent_interruptions_and_dollars() -> None:
    changes = [{"Status": "Training"}, {"Status": "Interrupted"}, {"Status": "Training"}]
    found = bill(
        [_job(7200, 3000, SecondaryStatusTransitions=changes), _job(3600, 600), _job(None, None)],
        prices.load(),
        "us-east-1",
    )
    assert (found.trained_seconds, found.billed_seconds, found.interruptions) == (10800, 3600, 1)
    assert (found.jobs, found.unknown) == (3, 1)
    assert found.saved_percent == pytest.approx(66.67, abs=0.01)
    assert found.usd == pytest.approx(2.03)
    assert "67 % saved, 1 interruption: 2.03 USD" in str(found)
    assert found.metrics()["saved_percent"] == 66.7
    noted = found.billed("birdsong-x-train-y-a2")
    assert (noted.seconds, noted.jobs, noted.unknown) == (3600, 3, 1)
    assert noted.usd == pytest.approx(2.03)
    assert noted.rate is not None
    assert (noted.rate.date, noted.rate.where[:8]) == ("2026-07-02", "https://")


def test_instances_multiply_the_seconds() -> None:
    two = _job(100, 50)
    two["ResourceConfig"] = {"InstanceType": "ml.g5.4xlarge", "InstanceCount": 2}
    assert bill([two], prices.load(), "us-east-1").billed_seconds == 100


def test_a_job_on_demand_saves_nothing_also_where_aws_names_no_billed_seconds() -> None:
    found = bill([_job(100, None)], prices.load(), "us-east-1")
    assert found.billed_seconds == 100
    assert found.saved_percent == 0


def test_a_job_that_billed_nothing_did_save_everything() -> None:
    assert bill([_job(100, 0)], prices.load(), "us-east-1").saved_percent == 100


def test_without_a_rate_a_bill_says_seconds_and_percent_and_no_dollars() -> None:
    found = bill([_job(100, 30)], prices.load(), "ap-south-1")
    assert "70 % saved" in str(found)
    assert "not known" in str(found)
    assert "usd" not in found.metrics()
    assert found.billed("a-job").usd is None


def test_jobs_on_two_kinds_of_instances_get_no_dollars_rather_than_wrong_ones() -> None:
    other = _job(100, 30)
    other["ResourceConfig"] = {"InstanceType": "ml.g5.2xlarge", "InstanceCount": 1}
    found = bill([_job(100, 30), other], prices.load(), "us-east-1")
    assert (found.usd, found.instance) == (None, "")


def test_no_jobs_cost_nothing_and_divide_by_nothing() -> None:
    found = bill([], prices.load(), "us-east-1")
    assert found.saved_percent is None
    assert found.metrics() == {"trained_seconds": 0.0, "billed_seconds": 0.0}


class _Pricing:
    """A stand-in for the Pricing API: products in the form that public readers of it expect."""

    def __init__(self, products: list[dict[str, Any]]) -> None:
        self.products, self.asked = products, {}

    def get_paginator(self, name: str) -> "_Pricing":
        assert name == "get_products"
        return self

    def paginate(self, **asked: Any) -> list[dict[str, list[str]]]:
        self.asked = asked
        texts = [json.dumps(product) for product in self.products]
        return [{"PriceList": texts[:1]}, {"PriceList": texts[1:]}]


def _product(instance: str, usd: str, component: str = "Training", unit: str = "Hrs") -> Any:
    dimension = {"unit": unit, "pricePerUnit": {"USD": usd}}
    return {
        "product": {"attributes": {"component": component, "instanceName": instance}},
        "terms": {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}},
    }


def test_rates_of_the_pricing_api_become_a_table_that_can_be_read_again(tmp_path: Path) -> None:
    stand_in = _Pricing(
        [
            _product("ml.g5.4xlarge", "2.5"),
            _product("ml.g5.4xlarge", "2.6", component="Hosting"),
            _product("ml.g5.8xlarge", "0.0000000000"),  # free tier
            _product("ml.c5.large", "0.1", unit="GB"),
            _product("", "0.1"),
            _product("ml.two.rates", "1"),
            _product("ml.two.rates", "2"),
            {"product": {"attributes": {"component": "Notebook", "instanceName": "ml.t3.medium"}}},
        ]
    )
    made = prices.refreshed(stand_in, "eu-central-1", TODAY)
    assert stand_in.asked["Filters"][0]["Value"] == "eu-central-1"
    (tmp_path / "made.json").write_text(json.dumps(made))
    table = prices.load(tmp_path / "made.json")
    training = table.rate("eu-central-1", "ml.g5.4xlarge")
    assert training is not None
    assert (training.usd_per_hour, training.date) == (2.5, TODAY)
    hosting = table.rate("eu-central-1", "ml.g5.4xlarge", "hosting")
    assert hosting is not None
    assert hosting.usd_per_hour == 2.6
    assert {rate["instance"] for rate in made["rates"]} == {"ml.g5.4xlarge"}


def test_a_region_without_rates_is_an_error_and_not_an_empty_table() -> None:
    with pytest.raises(StorageError, match="no rate of SageMaker in mars-1"):
        prices.refreshed(_Pricing([]), "mars-1", TODAY)
