"""The image's health check: whatever service runs in this container says that it is alive.

Which one that is, its second ports tell: each that listens must answer /health with 200, and one must listen.
"""

import http.client
import os
import sys


def answers(port: int) -> bool | None:
    """None where nobody listens."""
    door = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        door.request("GET", "/health")
        return door.getresponse().status == http.HTTPStatus.OK
    except ConnectionRefusedError:
        return None
    except OSError:
        return False
    finally:
        door.close()


if __name__ == "__main__":
    ports = (os.environ.get("SHORTENER_OPS_PORT") or "9090", os.environ.get("ANALYTICS_OPS_PORT") or "9091")
    answered = {answers(int(port)) for port in ports}
    sys.exit(True not in answered or False in answered)
