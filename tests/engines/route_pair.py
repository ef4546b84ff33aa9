"""A router's own answer to the command that `autopar export` writes, with servers that only listen.

python route_pair.py PORTS COMMAND...

PORTS: `prefill=8000,decode=8001`, of the servers that the command names, all on this machine.
Starts one stand-in for each, then the router, and sends it a request: both a prefill and a decode
server must get it, prefill first where the router waits for it, and the answer must be decode's.
"""

import json
import subprocess
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

SECONDS = 40
HEARD: list[tuple[str, int]] = []  # role and port of each request for text


def stand_in(role: str, port: int) -> ThreadingHTTPServer:
    """Return a server that answers whatever it is asked, and notes requests for text."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.answer({"status": "ok", "model_path": "m", "data": [{"id": "m"}], "dp_size": 1})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            HEARD.append((role, port))
            message = {"role": "assistant", "content": role}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            self.answer({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice],
                         "usage": usage, "kv_transfer_params": {"remote_port": 1}})  # fmt: skip

        def log_message(self, *_: object) -> None: ...

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def ask(port: int) -> str:
    """Return what the router answers; empty while it does not."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])
    except (OSError, ValueError, KeyError):
        return ""


def main(ports: str, command: list[str]) -> int:
    servers = [(role, int(port)) for role, port in (p.split("=") for p in ports.split(","))]
    for role, port in servers:
        Thread(target=stand_in(role, port).serve_forever, daemon=True).start()
    own = int(command[command.index("--port") + 1])
    router = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end, said = time.monotonic() + SECONDS, ""
        while time.monotonic() < end and said != "decode" and router.poll() is None:
            time.sleep(1)
            said = ask(own)
        asked = len([s for s in servers if s[0] == "decode"])
        for _ in range(2 * len(servers)):
            ask(own)
    finally:
        router.terminate()
        output = router.communicate()[0]
    if said != "decode":
        sys.stdout.write(f"{output[-1500:]}\nthe answer was {said!r}\n")
        return 1
    missing = sorted({*servers} - {*HEARD})
    if missing:
        sys.stdout.write(f"no request came to {missing}\n")
        return 1
    sys.stdout.write(f"ACCEPTED: requests went to all {len(servers)} servers, {asked} of decode\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
