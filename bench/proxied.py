"""Behind nginx as a proxy, as in a cluster: how much of what nginx gets from an nginx that only returns?

The proxy and the load share core 1; what is proxied to has core 0. Afterwards the spool is read.
"""

from bench.harness import cores, shortener, traffic
from bench.harness.beside import Beside
from bench.harness.nginx import ProxyingNginx, RedirectingNginx
from bench.harness.results import Goal
from bench.harness.run import Run

TITLE = "Through nginx as proxy"


def ask(run: Run) -> None:
    service = shortener.started(run, run.settings(broker=False, counts=False), traffic.CODES)
    nginx = run.start(RedirectingNginx(traffic.targets(traffic.CODES)))
    proxy = run.start(ProxyingNginx(service.urls[0]), cores.LOAD, what="nginx as proxy to shortener-service")
    other = run.start(ProxyingNginx(nginx.url, "nginx-to-nginx"), cores.LOAD, what="nginx as proxy to nginx")
    beside = Beside(run, proxy.url, other.url)
    beside.warm_up(run.requests())
    beside.figures(run.requests(), 64, Goal(0.9), "redirects through a proxy")
    shortener.check_spool(run, service, beside.ours)
