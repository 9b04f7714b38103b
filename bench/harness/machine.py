"""The machine, described as far as figures depend on it."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

_VERSIONS = {
    "nginx": ["/usr/sbin/nginx", "-v"],
    "PostgreSQL": ["sh", "-c", "/usr/lib/postgresql/*/bin/postgres --version"],
    "RabbitMQ": ["sh", "-c", "ls /usr/lib/rabbitmq/lib | grep rabbitmq_server"],
    "Redis": ["redis-server", "--version"],
    "wrk": ["sh", "-c", "wrk -v 2>&1 | head -1"],
}


def described() -> dict[str, str]:
    """What it is, what is installed, and how busy it is just now."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{_debian()}, Linux {platform.release()}",
        "Python": sys.version.split()[0],
        **{name: _version(command) for name, command in _VERSIONS.items()},
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.processor()


def _debian() -> str:
    found = re.search(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())
    return found[1] if found else "unknown"


def _version(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return "missing"
    found = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
    return found[0] if found else "missing"
