import pytest

from birdsong import progress


def test_what_is_told_can_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    progress.tell("decode", 3, 7, "recordings")
    line = capsys.readouterr().out
    assert progress.parse(line) == progress.Update("decode", 3, 7, "recordings")


@pytest.mark.parametrize("line", ["", "progress", "progress decode 3 of 7", "a progress x 1/2 y"])
def test_other_lines_are_not_progress(line: str) -> None:
    assert progress.parse(line) is None


def test_tracked_items_pass_through_and_the_last_line_says_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(progress.track(iter("abc"), 3, "read", "files")) == ["a", "b", "c"]
    told = [progress.parse(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == progress.Update("read", 0, 3, "files")
    assert told[-1] == progress.Update("read", 3, 3, "files")


def test_many_fast_items_are_told_in_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress.track(range(100_000), 100_000, "read", "files"))
    assert len(capsys.readouterr().out.splitlines()) < 10
