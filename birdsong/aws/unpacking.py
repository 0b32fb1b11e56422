"""Archives from a bucket: unpacked into a folder, with nothing outside of it."""

import os
import tarfile
from pathlib import Path, PurePosixPath


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz of files and folders, which then belong to the caller.

    Not by tarfile's own filter `data`: Python has it from 3.11.4 on, Debian 12 has 3.11.2.

    Raises:
        tarfile.TarError: It is no whole archive, or holds a link, a device, or a name that leads
            out of the folder.
        OSError: It cannot be read or the files not be written.
    """
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
        for one in members:
            name = PurePosixPath(one.name)
            if not (one.isfile() or one.isdir()) or name.is_absolute() or ".." in name.parts:
                raise tarfile.ExtractError(f"{one.name} is no file or folder below its own place")
            one.uid, one.gid, one.uname, one.gname = os.getuid(), os.getgid(), "", ""
            one.mode = 0o755 if one.isdir() else 0o644
        packed.extractall(folder, members)
