"""In the operator's image: everything it imports, a plan by the solver, and a query to Prometheus."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import spillway.cli.explain
import spillway.controller.process  # noqa: F401 (the whole operator)
from spillway.decide.placement import Choice, Need, Room, solve
from spillway.observe.prometheus import Prometheus
from spillway.observe.traffic import Windows, look

_SAMPLE = {"metric": {"deployment": "chat/glm-5", "namespace": "", "pod": "p"}, "value": [0, "2.5"]}


class _Answers(BaseHTTPRequestHandler):
    """A Prometheus that has the same one sample for every query but those of routes, of which there are none."""

    def do_GET(self) -> None:
        found = [] if "model[|]" in unquote(self.path) else [_SAMPLE]
        body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": found}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def ask() -> float:
    """Requests per second of chat/glm-5, as the operator reads them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        prometheus = Prometheus(f"http://127.0.0.1:{server.server_port}")
        traffic = asyncio.run(look(prometheus, Windows()))
        prometheus.close()
        server.shutdown()
    return traffic.of("chat/glm-5").requests_per_second


def plan() -> int:
    """Replicas that three units of work need where one replica does two."""
    choice = Choice("fp8", "h200", 8, units_per_replica=2.0, usd_per_hour=20.0, start_usd=1.0, placed=0, slots=4)
    mix = solve([Need("chat/glm-5", units=3.0, floor=0, ceiling=4, choices=(choice,))], [Room("h200", 32)])
    return mix["chat/glm-5"].replicas["fp8"]


if ask() != 2.5:
    raise SystemExit("the answer of Prometheus was read wrongly")
if plan() != 2:
    raise SystemExit("the solver gave another plan than two replicas")
print("imports, solver and Prometheus client work")
