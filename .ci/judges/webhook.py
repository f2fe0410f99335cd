"""Lets the reference library of Standard Webhooks check a signed request.

    python webhook.py CWPRELAY
"""

import base64
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading

from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()
seen = []


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            seen.append(Webhook(SECRET).verify(body, dict(self.headers)))
        except Exception as err:  # whatever the library raises is its verdict
            seen.append(err)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
    address = f"http://127.0.0.1:{server.server_port}/hook"
    config.write(
        "sources: {prod: {}}\n"
        f"sinks: {{hook: {{webhook: {{url: '{address}', allow_private: true, secrets: ['{SECRET}']}}}}}}\n"
    )
    config.flush()
    subprocess.run([sys.argv[1], "sinks", "test", "hook", "--config", config.name], check=True, stdout=subprocess.DEVNULL)
server.shutdown()
if len(seen) != 1 or isinstance(seen[0], Exception) or not isinstance(seen[0], dict):
    sys.exit(f"the reference library says: {seen!r}")
print("1 signed webhook,", json.dumps(seen[0].get("message")), "verified by the reference library")
