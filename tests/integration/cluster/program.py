"""What the tests' pods run: an HTTP server whose health can be switched, and that ends its requests on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

unhealthy: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.strip("/")
        if path.startswith("break/"):
            unhealthy.add(path.removeprefix("break/"))
        if path == "slow":
            print("slow request began", flush=True)
            time.sleep(float(os.environ.get("SLOW_SECONDS", "2")))
        body = ""
        if path == "environment":
            body = json.dumps({"environment": dict(os.environ), "arguments": sys.argv[1:]})
        if path == "file":
            body = Path(sys.argv[1]).read_text()
        self.send_response(500 if path in unhealthy else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        """Probes are not worth a line."""


class Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the requests in flight


server = Server((os.environ["POD_IP"], 8000), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("serving", flush=True)
server.serve_forever()
server.server_close()
print("drained", flush=True)
