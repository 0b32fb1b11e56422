"""What the figures of an evaluation mean, in sentences for people who know birds."""

from collections.abc import Mapping
from typing import Any


def many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(figure: Mapping[str, float | None], digits: int = 0) -> str:
    """`80 to 93 %`, or a dash."""
    low, high = figure["low"], figure["high"]
    if low is None or high is None:
        return "no interval"
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f} %"


def points(figure: Mapping[str, float | None], digits: int = 0) -> str:
    """`-3 to +9 points`."""
    low, high = figure["low"], figure["high"]
    if low is None or high is None:
        return "no interval"
    return f"{100 * low:+.{digits}f} to {100 * high:+.{digits}f} points"


def meaning(metrics: Mapping[str, Any]) -> list[str]:
    """What `metrics.json` says, in sentences."""
    counts, network = metrics["counts"], metrics["network"]
    if not counts["test_recordings"]:
        return [
            "There are no test recordings, so nothing can be said about how good the network is. "
            "Raise test_fraction, or give more recordings."
        ]
    accuracy, plain = network["accuracy"], metrics["baseline"]["accuracy"]
    said = [
        f"Of 100 recordings like these the network names a labelled species first in about "
        f"{100 * accuracy['value']:.0f}, and among its first three in about "
        f"{100 * network['top3_accuracy']['value']:.0f}. The baseline is right in about "
        f"{100 * plain['value']:.0f}.",
        _compared(metrics["difference"]["accuracy"], counts["test_groups"]),
    ]
    false, target = metrics["false_positives"], metrics["false_positives"]["target"]
    rate, recall = false["false_positive_rate"], false["recall"]
    if rate["value"] is None:
        said.append("No species has a threshold, so the network never reports one as heard.")
    else:
        said.append(
            f"At its thresholds a species is reported in {percent(rate['value'], 1)} "
            f"({interval(rate, 1)}) of the test windows that do not hold it, on average over "
            f"species; the aim was {percent(target, 1)}, {_aim(rate, target)}. It is reported in "
            f"{percent(recall['value'])} ({interval(recall)}) of the windows that do hold it."
        )
    said.append(_probabilities(metrics["calibration"]))
    return said


def _compared(difference: Mapping[str, float | None], groups: int) -> str:
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return (
            f"All test recordings belong to {many(groups, 'group')} (such as an author's of one "
            "day and place), too few to say whether network and baseline differ."
        )
    if low > 0:
        return (
            f"The network is better than the baseline: {points(difference)}, beyond what chance "
            "in the choice of recordings explains."
        )
    if high < 0:
        return (
            f"The network is worse than the baseline: {points(difference)}, beyond what chance "
            "in the choice of recordings explains. Do not deploy it."
        )
    return (
        f"Network and baseline cannot be told apart on so few recordings: the difference may be "
        f"anything from {100 * low:+.0f} to {100 * high:+.0f} points."
    )


def _aim(rate: Mapping[str, float | None], target: float) -> str:
    low, high = rate["low"], rate["high"]
    if low is None or high is None:
        return "which so few groups of recordings cannot confirm"
    if low > target:
        return "which it misses: the test recordings differ from those of calibration"
    return "which it keeps" if high <= target else "which fits within the interval"


def _probabilities(ece: Mapping[str, Any]) -> str:
    method, temperature = ece["method"], ece["temperature"]
    if ece["ece_before"] is None:
        return str(ece["note"])
    if method == "identity":
        return (
            f"Scores are shown as probabilities as they are ({ece['note']}) They "
            f"are off by {percent(ece['ece_before'], 1)} on average."
        )
    off = (
        f"As probabilities on test they are off by {percent(ece['ece_before'], 1)} on average "
        f"before the correction and {percent(ece['ece_after'], 1)} after it."
    )
    if method == "isotonic":
        return f"The raw scores are corrected by a rising curve. {ece['note']} {off}"
    kind = "about as sure as they should be"
    if abs(temperature - 1) > 0.1:
        kind = "too sure of themselves" if temperature > 1 else "too careful"
    return f"The raw scores are {kind} on calibration (temperature {temperature:.2f}). {off}"


def about_frames(frames: Mapping[str, Any]) -> list[str]:
    """What figures per labelled frame were measured on, and how to read them."""
    said = [
        f"{many(frames['frames'], 'labelled frame')} of 5 s in "
        f"{many(frames['recordings'], 'soundscape')}, {frames['frames_without_birds']:,} of them "
        "without a bird. Each frame is scored alone.",
        "A bird is reported where a frame's score is above the species' threshold, which was made "
        "for windows of up to 60 s: for a single frame it is stricter than need be.",
    ]
    if frames["unknown_species"]:
        count = len(frames["unknown_species"])
        said.append(
            f"{many(count, 'labelled species', 'labelled species')} of {frames['species']} "
            f"{'is' if count == 1 else 'are'} unknown to the network and counted as missed: "
            f"{', '.join(frames['unknown_species'][:10])}{' ...' if count > 10 else ''}."
        )
    return said


def limits(metrics: Mapping[str, Any]) -> list[str]:
    """What the figures do not say."""
    counts = metrics["counts"]
    said = []
    if 0 < counts["test_recordings"] < 300:
        said.append(
            f"{many(counts['test_recordings'], 'test recording')} are few. With so few the "
            "intervals are wide, those of single species say next to nothing, and a figure of "
            "100 % means only that no error was met yet."
        )
    if counts["test_species"] < counts["species"]:
        said.append(
            f"{many(counts['species'] - counts['test_species'], 'species', 'species')} of "
            f"{counts['species']} have no test recording: nothing here speaks about them."
        )
    said += [
        "The intervals say what another draw of such recordings could bring. They do not cover "
        "other microphones, places and distances: on an autonomous recorder expect less.",
        "A label names the bird that the recordist meant. Others may sing too; those that are "
        "listed as secondary count as right and are never counted as false alarms, those that "
        "are not listed count against the network.",
        "A recording's score is the highest of its 5-second frames, so a long recording has more "
        "chances for a false alarm than a short one. Thresholds hold for windows of up to 60 s.",
        "The network knows these species only. Any other sound can be taken for one of them.",
    ]
    return said
