"""`python -m drill cluster`, as README.md beside it tells."""

import argparse
import contextlib
import sys
import time

from drill.cluster import Cluster
from drill.servers import PROXIES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m drill", description="Three nodes on loopback, and their bad days.")
    parser.add_argument("what", choices=["cluster"])
    parser.add_argument("--minutes", type=float, default=60, help="how long `cluster` stays up at most")
    arguments = parser.parse_args()
    with Cluster() as cluster:
        cluster.start()
        print(f"create and follow  http://{PROXIES[0]}:8080  http://{PROXIES[1]}:8080")
        print(f"counts             http://{PROXIES[0]}:8081  http://{PROXIES[1]}:8081")
        for member in cluster.members:
            print(f"{member.role:<12} {member.address}:{member.port:<6} {member.folder}")
        print("Ctrl-C ends all of it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(arguments.minutes * 60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
