"""A real server, from the system's packages, that a test may stop, kill, pause and start again."""

import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.backends import keeper
from tests.backends.keeper import descendants, signal_all
from tests.backends.waiting import wait_until


class ServerMissing(Exception):
    """The server is not installed on this machine. The message is the command that would."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"apt-get install --no-install-recommends {package}   (or, with all other servers: scripts/setup servers)"
        )


@functools.cache
def _folder_of_this_run() -> Path:
    """Removed when this process is gone, whatever ended it."""
    # Not below the temporary folder of pytest: that is closed to other users, and too long for a socket's path.
    folder = Path(tempfile.mkdtemp(prefix="urlshortener-", dir="/tmp"))
    folder.chmod(0o711)
    _keepers_of_folders.append(_keep(folder, ["sleep", "infinity"]))
    return folder


_keepers_of_folders: list[subprocess.Popen[bytes]] = []  # held: each waits for its end of the pipe to close


def _keep(folder: Path, command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    script = [sys.executable, "-I", "-S", keeper.__file__, str(folder)]
    # A session of its own, so that Ctrl-C in a terminal reaches the tests, not the server.
    return subprocess.Popen([*script, *command], stdin=subprocess.PIPE, start_new_session=True, **how)


class Server(ABC):
    """One server on loopback, in a folder of its own under /tmp, on ports that stay the same over restarts.

    Everything here blocks until it is done; `start` and `stop` take up to some seconds, so call those from an event
    loop with `asyncio.to_thread`. Nothing survives the process that made it, whatever ends that (keeper.py).

    When root runs the tests, the server runs as `system_user`: PostgreSQL and RabbitMQ refuse or dislike root.
    """

    host = "127.0.0.1"
    system_user: str | None = None
    start_seconds = 30.0
    stop_seconds = 20.0
    stop_signal = signal.SIGTERM

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_folder_of_this_run()))
        self.folder.chmod(0o755)
        self.log = self.folder / "log"
        self.is_paused = False
        self._keeper: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """What runs the server in the foreground."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it is up and does its work."""

    def _environment(self) -> Mapping[str, str]:
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start, or start again with the same ports and data. It answers when this returns."""
        self.launch()
        self.wait_until_it_answers()

    def launch(self) -> None:
        """Start without waiting for it to answer."""
        assert not self.is_running, f"{self.name} runs already"
        self.is_paused = False
        with self.log.open("ab") as log:
            command = [*self._as_user(), *self._command()]
            environment = self._whole_environment()
            self._keeper = _keep(self.folder, command, stdout=log, stderr=log, cwd=self.folder, env=environment)

    def wait_until_it_answers(self) -> None:
        def answers_or_ended() -> bool:
            return not self.is_running or self._answers()

        try:
            wait_until(answers_or_ended, f"{self.name} answers", within_seconds=self.start_seconds)
            assert self.is_running, f"{self.name} ended while it started"
        except AssertionError as error:
            raise AssertionError(f"{error}. The end of its log:\n{self.log_tail()}") from None

    @property
    def is_running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._keeper is not None and self._keeper.poll() is None

    @property
    def pids(self) -> list[int]:
        """Its processes, children first."""
        return [] if self._keeper is None else descendants(self._keeper.pid)

    def stop(self) -> None:
        """End it as an operator would, with all that it does on the way out."""
        if self._keeper is None or not self.is_running:
            return
        self.resume()
        self._keeper.send_signal(self.stop_signal)
        try:
            self._keeper.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not stop. The end of its log:\n{self.log_tail()}") from None

    def kill(self) -> None:
        """SIGKILL to all of its processes: as when its node dies, but what the kernel holds is not lost."""
        if self._keeper is not None and self.is_running:
            signal_all(self._keeper.pid, signal.SIGKILL)
            self._keeper.wait(self.stop_seconds)

    def pause(self) -> None:
        """SIGSTOP to all of its processes: the kernel still takes connections, nobody answers."""
        if self._keeper is not None:
            signal_all(self._keeper.pid, signal.SIGSTOP)
            self.is_paused = True

    def resume(self) -> None:
        if self._keeper is not None:
            signal_all(self._keeper.pid, signal.SIGCONT)
            self.is_paused = False

    def close(self) -> None:
        """End it for good, at once, and remove its folder."""
        if self._keeper is not None and self._keeper.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._keeper.stdin.close()
            self._keeper.wait(self.stop_seconds)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of what the server wrote."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _run(self, *command: str | Path, stdin: str = "", limit_seconds: float = 60, **environment: str) -> str:
        """Run a tool of the server as its user, and give what it printed."""
        try:
            return subprocess.run(
                [*self._as_user(), *map(str, command)],
                input=stdin,
                capture_output=True,
                text=True,
                check=True,
                cwd=self.folder,
                env={**self._whole_environment(), **environment},
                timeout=limit_seconds,
            ).stdout.strip()
        except subprocess.CalledProcessError as error:
            raise AssertionError(f"{command[0]} failed: {error.stdout}{error.stderr}") from None

    def _own_folder(self, name: str) -> Path:
        """A new folder that the server's user owns, and nobody else may read."""
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0 and self.system_user:
            shutil.chown(folder, self.system_user, pwd.getpwnam(self.system_user).pw_gid)
        return folder

    def _as_user(self) -> list[str]:
        if os.geteuid() != 0 or self.system_user is None:
            return []
        return ["setpriv", f"--reuid={self.system_user}", f"--regid={self.system_user}", "--init-groups", "--"]

    def _whole_environment(self) -> dict[str, str]:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "LANG": "C.UTF-8", "HOME": str(self.folder), **self._environment()}
