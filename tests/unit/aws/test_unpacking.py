"""Archives from a bucket."""

import io
import stat
import tarfile
from pathlib import Path

import pytest

from birdsong.aws.unpacking import unpack


def pack(place: Path, *members: tuple[str, bytes, str]) -> Path:
    """An archive of members: type as tarfile names it, name, and target of a link."""
    with tarfile.open(place, "w:gz") as archive:
        for name, kind, link in members:
            one = tarfile.TarInfo(name)
            one.type, one.linkname, one.mode, one.uid = kind, link, 0o4777, 12345
            one.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(one, io.BytesIO(b"song"))
    return place


def test_files_and_folders_belong_to_the_caller_with_plain_rights(tmp_path: Path) -> None:
    archive = pack(
        tmp_path / "a.tar.gz",
        ("model", tarfile.DIRTYPE, ""),
        ("model/weights", tarfile.REGTYPE, ""),
        ("./page.html", tarfile.REGTYPE, ""),
    )
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/model/weights").read_bytes() == b"song"
    found = (tmp_path / "out/page.html").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o644, tmp_path.stat().st_uid)


@pytest.mark.parametrize(
    "member",
    [
        ("../outside", tarfile.REGTYPE, ""),
        ("a/../../outside", tarfile.REGTYPE, ""),
        ("/outside", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc"),
        ("link", tarfile.LNKTYPE, "whole"),
        ("pipe", tarfile.FIFOTYPE, ""),
        ("device", tarfile.CHRTYPE, ""),
    ],
)
def test_what_leads_out_of_the_folder_is_refused_and_nothing_is_unpacked(
    tmp_path: Path, member: tuple[str, bytes, str]
) -> None:
    archive = pack(tmp_path / "a.tar.gz", ("whole", tarfile.REGTYPE, ""), member)
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    with pytest.raises(tarfile.TarError, match=r"below its own place"):
        unpack(archive, out)
    assert list(out.iterdir()) == []
    assert not list(tmp_path.rglob("outside"))


def test_a_torn_archive_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", ("whole", tarfile.REGTYPE, ""))
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises((tarfile.TarError, EOFError, OSError)):
        unpack(archive, tmp_path / "out")
