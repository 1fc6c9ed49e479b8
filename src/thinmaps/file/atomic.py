# SPDX-License-Identifier: Apache-2.0
"""Writing a file whole or not at all: a temporary file in the same folder, synced, then renamed.

Whatever happens in between (an error, Ctrl-C, a full disk, a power cut), the path holds either
what it held before or all of the new bytes, and no temporary file stays unless the process is
killed outright.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from thinmaps.errors import BadArgument

if TYPE_CHECKING:
    from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`.

    Raises:
        BadArgument: `path` is a folder, its folder is absent, or one of them cannot be written.
    """
    check_writable(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise BadArgument(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        # After the rename this name is gone; before it, nothing may stay behind.
        with suppress(OSError):
            temporary.unlink()
    _sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written; worth asking before hours of work.

    Raises:
        BadArgument: as `write_atomically`.
    """
    if path.is_dir():
        raise BadArgument(f"cannot write {path}: it is a folder, a file name is needed")
    if not path.parent.is_dir():
        raise BadArgument(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise BadArgument(f"cannot write {path}: the folder {path.parent} is read-only")
    if path.exists() and not os.access(path, os.W_OK):
        raise BadArgument(f"cannot write {path}: the file is read-only")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
