"""Ports on loopback that nobody else will take while the tests run."""

import errno
import random
import socket
from pathlib import Path

_claims: list[socket.socket] = []  # held until the process ends


def free_port() -> int:
    """A free port that stays ours, also while the server behind it is down.

    It lies below the range from which the kernel draws the ports of clients. There, a client that tries again and
    again to reach a server that is down will sooner or later draw that very port and be connected to itself.
    Two runs of the tests keep out of each other's way by a name that only one process can hold.
    """
    lowest_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(10_000, max(lowest_of_clients, 12_000))
    for port in random.sample(candidates, len(candidates)):
        if _claim(port) and _is_free(port):
            return port
    raise AssertionError("every port is taken")


def _claim(port: int) -> bool:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0urlshortener-tests-{port}")
    except OSError as error:
        claim.close()
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    _claims.append(claim)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
