"""Behind nginx as a proxy, as in a cluster: how much of what nginx gets from an nginx that only returns?

The proxy and the load share core 1; what is proxied to has core 0. Afterwards the spool is read, and
nearly all redirects must have taken the fast way, whatever the proxy adds to a request.
"""

from bench.harness import cores, shortener, traffic
from bench.harness.beside import Beside
from bench.harness.nginx import ProxyingNginx, RedirectingNginx
from bench.harness.results import Goal
from bench.harness.run import Run

TITLE = "Through nginx as proxy"

_FAST = 0.99  # of all redirects, at least


def ask(run: Run) -> None:
    service = shortener.started(run, run.settings(broker=False, counts=False), traffic.CODES)
    nginx = run.start(RedirectingNginx(traffic.targets(traffic.CODES)))
    proxy = run.start(ProxyingNginx(service.urls[0]), cores.LOAD, what="nginx as proxy to shortener-service")
    other = run.start(ProxyingNginx(nginx.url, "nginx-to-nginx"), cores.LOAD, what="nginx as proxy to nginx")
    beside = Beside(run, proxy.url, other.url)
    beside.warm_up(run.requests())
    beside.figures(run.requests(), 64, Goal(0.9), "redirects through a proxy")
    redirected, fast = service.redirected, int(service.metrics()["redirects_fast_total"])
    run.check(f"{redirected:,} redirects, {fast:,} on the fast way", holds=fast >= _FAST * redirected)
    shortener.check_spool(run, service, beside.ours)
