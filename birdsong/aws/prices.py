"""Rates of SageMaker's instances: a dated table, each rate with its source; none is guessed.

The table of this package is `prices.json`. One of the user's own, in the same form, stands before
it; `refreshed` makes one by the AWS Pricing API.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from birdsong import storage
from birdsong.errors import ConfigError, StorageError

Use = Literal["training", "hosting"]

OWN_TABLE = Path(__file__).with_name("prices.json")
PRICING_REGION = "us-east-1"
"""Where the Pricing API is, whatever region is asked for."""


@dataclass(frozen=True)
class Rate:
    """What an hour of one instance costs on demand.

    Attributes:
        region: As us-east-1.
        use: training or hosting.
        instance: As ml.g5.4xlarge.
        usd_per_hour: US dollars, above 0.
        date: The day for which the source gives it.
        source: What the source is.
        where: Its address.
    """

    region: str
    use: Use
    instance: str
    usd_per_hour: float
    date: date
    source: str
    where: str

    def __str__(self) -> str:
        return f"{self.usd_per_hour:g} USD/h ({self.instance} in {self.region}, {self.date})"


class PriceTable:
    """Rates by region, use and instance."""

    def __init__(self, rates: Iterable[Rate]) -> None:
        self.rates = tuple(rates)
        self._found = {(rate.region, rate.use, rate.instance): rate for rate in self.rates}

    def rate(self, region: str, instance: str, use: Use = "training") -> Rate | None:
        """The rate, or None where it is not known."""
        return self._found.get((region, use, instance))


def load(place: str | Path = "") -> PriceTable:
    """Read the package's table and, before it, one of the user's.

    Args:
        place: File or URI of a table in the form of `prices.json`; empty for none.

    Raises:
        ConfigError: The table is not in that form.
        StorageError: It cannot be read.
    """
    rates = _parse(OWN_TABLE.read_bytes(), str(OWN_TABLE))
    if str(place):
        with storage.open_for_reading(str(place)) as file:
            rates += _parse(file.read(), str(place))
    return PriceTable(rates)


def _parse(text: bytes, place: str) -> list[Rate]:
    try:
        table = json.loads(text)
        sources = {
            name: (date.fromisoformat(entry["date"]), str(entry["what"]), str(entry["where"]))
            for name, entry in table["sources"].items()
        }
        rates = []
        for entry in table["rates"]:
            day, what, where = sources[entry["source"]]
            usd = entry["usd_per_hour"]
            if entry["use"] not in ("training", "hosting"):
                raise ValueError(f"use {entry['use']!r} is neither training nor hosting")
            if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 < usd < 1e4:
                raise ValueError(f"usd_per_hour {usd!r} of {entry['instance']} is no rate")
            region, instance = str(entry["region"]), str(entry["instance"])
            rates.append(Rate(region, entry["use"], instance, float(usd), day, what, where))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"The price table {place} is not in the form of birdsong/aws/prices.json: "
            f"{type(error).__name__}: {error}. Each rate needs region, use, instance, usd_per_hour "
            "and the name of a source, which has a date, what and where."
        ) from error
    return rates


def refreshed(client: Any, region: str, today: date) -> dict[str, Any]:
    """Ask the AWS Pricing API for a region's rates, as a table to be kept in a file.

    Args:
        client: boto3's client `pricing`, of `PRICING_REGION`.
        region: As us-east-1.
        today: The date that the rates are given.

    Raises:
        StorageError: The answer holds no rate of this region.
    """
    found: dict[tuple[str, str], set[float]] = {}
    filters = [{"Type": "TERM_MATCH", "Field": "regionCode", "Value": region}]
    pages = client.get_paginator("get_products")
    for page in pages.paginate(ServiceCode="AmazonSageMaker", Filters=filters):
        for text in page["PriceList"]:
            for use, instance, usd in _of_product(json.loads(text)):
                found.setdefault((use, instance), set()).add(usd)
    # Two rates for one instance would be a guess which of them counts.
    rates = [
        {
            "region": region,
            "use": use,
            "instance": instance,
            "usd_per_hour": next(iter(usd)),
            "source": "pricing-api",
        }
        for (use, instance), usd in sorted(found.items())
        if len(usd) == 1
    ]
    if not rates:
        raise StorageError(
            f"The AWS Pricing API named no rate of SageMaker in {region}. Check the region's name; "
            "or write the rates into a file by hand, in the form of birdsong/aws/prices.json."
        )
    source = {
        "date": today.isoformat(),
        "what": f"AWS Pricing API, AmazonSageMaker, {region}",
        "where": f"https://api.pricing.{PRICING_REGION}.amazonaws.com",
    }
    return {
        "unit": "USD per hour of one instance, on demand",
        "sources": {"pricing-api": source},
        "rates": rates,
    }


def _of_product(product: Mapping[str, Any]) -> Iterable[tuple[str, str, float]]:
    """Use, instance and rate of one product of the price list; nothing of those of other kinds."""
    attributes = product.get("product", {}).get("attributes", {})
    use = str(attributes.get("component", "")).lower()
    instance = str(attributes.get("instanceName", ""))
    if use not in ("training", "hosting") or not instance.startswith("ml."):
        return
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            usd = float(dimension.get("pricePerUnit", {}).get("USD", 0))
            if usd > 0 and str(dimension.get("unit", "")).lower().startswith("h"):
                yield use, instance, usd
