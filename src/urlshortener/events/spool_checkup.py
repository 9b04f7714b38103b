"""What lies in a folder of spools, for a person who wants to know. Nothing is adopted, and nothing is changed."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from urlshortener.events.epoch import is_held


@dataclass(frozen=True, slots=True)
class SpoolFolder:
    """All epochs below one SPOOL_DIR."""

    is_there: bool
    can_be_written: bool = False
    epochs: int = 0
    unadopted: int = 0  # whose process is gone, and which nobody has taken over
    bytes: int = 0  # on disk, what is confirmed in them included
    oldest_seconds: float = 0.0  # since the oldest of their files was written to
    set_aside: int = 0  # files in quarantine
    dead_letters: int = 0
    free_bytes: int = 0


def look_at(folder: Path) -> SpoolFolder:
    if not folder.is_dir():
        return SpoolFolder(is_there=False)
    epochs = [path for path in folder.iterdir() if path.is_dir() and path.name != "quarantine"]
    segments = [path.stat() for epoch in epochs for path in epoch.glob("*.frames")]
    letters = folder / "dead-letters.jsonl"
    space = os.statvfs(folder)
    return SpoolFolder(
        is_there=True,
        can_be_written=os.access(folder, os.W_OK),
        epochs=len(epochs),
        unadopted=sum(not is_held(epoch) for epoch in epochs),
        bytes=sum(segment.st_size for segment in segments),
        oldest_seconds=time.time() - min((segment.st_mtime for segment in segments), default=time.time()),
        set_aside=len(list((folder / "quarantine").glob("*"))),
        dead_letters=letters.read_bytes().count(b"\n") if letters.exists() else 0,
        free_bytes=space.f_bavail * space.f_frsize,
    )
