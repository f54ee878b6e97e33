"""A scripted MCP server over HTTP, for tests: Streamable HTTP at /mcp (both eras), and HTTP+SSE of 2024-11-05 at /sse.

PEER_PORT: where to listen (127.0.0.1). PEER_NOTES: a file to which a line is added for all that matters. PEER_STREAM=1: POSTs
are answered by streams. PEER_LOST: how an unknown session is answered (404, 400, 400plain, 200, 401, 503). PEER_GATE: what
`slow` tools wait for.

Tools: as in peer.py, and: cut (the stream breaks off before the answer, which is there for whoever comes back with
Last-Event-ID), tear (it breaks off, and nobody knows its events), fail (status 500), login (401 with a challenge), tell (says
on the GET stream that the tools are others), garble (status 200, and no message).
"""

import json
import os
import queue
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()
sessions, told, kept, old = set(), {}, {}, {}


def note(words):
    with lock, open(os.environ["PEER_NOTES"], "a") as notes:
        notes.write(words + "\n")


def text(words):
    return {"content": [{"type": "text", "text": words}]}


def tools():
    return [{"name": n, "inputSchema": {"type": "object"}, **({"annotations": {"readOnlyHint": True}} if n in ("look", "tear_look") else {})}
            for n in ("echo", "pay", "look", "cut", "tear", "tear_look", "fail", "login", "tell", "slow", "garble")]


def answer(message):
    """The answer to a request; None where there is none."""
    method, id = message.get("method"), message.get("id")
    if id is None or method is None:
        note(f"took {method}")
        return None
    if method == "initialize":
        note("initialize")
        result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {"listChanged": True}},
                  "serverInfo": {"name": "peer", "version": "1"}}
    elif method == "server/discover":
        result = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {}}
    elif method == "tools/list":
        result = {"tools": tools()}
    elif method == "tools/call":
        name = message["params"]["name"]
        note(f"call {name}")
        if name == "slow":
            while not os.path.exists(os.environ["PEER_GATE"]):
                time.sleep(0.002)
        result = text(name)
    elif method == "ping":
        result = {}
    else:
        return {"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "Method not found"}}
    return {"jsonrpc": "2.0", "id": id, "result": result}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body=b"", kind="application/json", headers=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self, headers=()):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def event(self, data, id=None, kind=None):
        lines = ([f"id: {id}"] if id else []) + ([f"event: {kind}"] if kind else []) + [f"data: {data}"]
        self.wfile.write(("\n".join(lines) + "\n\n").encode())
        self.wfile.flush()

    def lost(self):
        shapes = {
            "404": (404, b"", ()),
            "400": (400, b'{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}', ()),
            "400plain": (400, b"Invalid or missing session ID", ()),
            "200": (200, b'{"jsonrpc":"2.0","id":"","error":{"code":-32001,"message":"Session not found"}}', ()),
            "401": (401, b"Unauthorized: Session not found", ()),
            "503": (503, b'{"error":"the session is unknown to this instance"}', ()),
        }
        status, body, headers = shapes[os.environ.get("PEER_LOST", "404")]
        note("lost")
        self.reply(status, body, headers=headers)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message = json.loads(body)
        method, name = message.get("method"), (message.get("params") or {}).get("name")
        if self.path.startswith("/messages"):
            self.reply(202, b"Accepted")
            result = answer(message)
            if result:
                old[self.path.split("=")[1]].put(result)
            return
        meta = (message.get("params") or {}).get("_meta") or {}
        headers = []
        if "io.modelcontextprotocol/protocolVersion" in meta:
            if self.headers.get("Mcp-Method") != method or self.headers.get("Mcp-Session-Id"):
                return self.reply(400, json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": -32020, "message": "header mismatch"}}).encode())
            if name and self.headers.get("Mcp-Name") != name:
                return self.reply(400, b"no name")
        elif method == "initialize":
            session = uuid.uuid4().hex
            sessions.add(session)
            told[session] = queue.Queue()
            headers = [("Mcp-Session-Id", session)]
        elif self.headers.get("Mcp-Session-Id") not in sessions:
            return self.lost()
        elif self.headers.get("Mcp-Protocol-Version") is None:
            return self.reply(400, b"no version")
        if name == "login":
            return self.reply(401, b"log in", headers=[("WWW-Authenticate", "Bearer")])
        result = answer(message)
        if result is None:
            return self.reply(202)
        if name == "fail":
            return self.reply(500, b"an accident", kind="text/plain")
        if name == "garble":
            return self.reply(200, b"<html>a page</html>", kind="text/html")
        if name == "tell":
            told[self.headers["Mcp-Session-Id"]].put({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        if name in ("tear", "tear_look") and not os.path.exists(os.environ["PEER_GATE"]):
            self.begin_stream()
            self.wfile.write(b": working\n\n")
            return
        if name == "cut":
            id = uuid.uuid4().hex
            kept[id] = result
            self.begin_stream()
            self.wfile.write(b"retry: 10\n\n")
            self.event("", id=id)
            return
        text = json.dumps(result)
        if os.environ.get("PEER_STREAM"):
            self.begin_stream(headers)
            self.event(text)
        else:
            self.reply(200, text.encode(), headers=headers)

    def do_GET(self):
        if self.path == "/sse":
            session = uuid.uuid4().hex
            old[session] = queue.Queue()
            self.begin_stream()
            self.event(f"/messages?session={session}", kind="endpoint")
            return self.pour(old[session])
        last = self.headers.get("Last-Event-ID")
        if last in kept:
            note("resumed")
            self.begin_stream()
            return self.event(json.dumps(kept.pop(last)))
        if self.headers.get("Mcp-Session-Id") not in sessions:
            return self.lost()
        note(f"listening after {last}" if last else "listening")
        self.begin_stream()
        self.pour(told[self.headers["Mcp-Session-Id"]])

    def pour(self, from_queue):
        try:
            while True:
                try:
                    self.event(json.dumps(from_queue.get(timeout=0.05)), id=uuid.uuid4().hex)
                except queue.Empty:
                    self.wfile.write(b": alive\n\n")
        except OSError:
            pass

    def do_DELETE(self):
        note("deleted" if self.headers.get("Mcp-Session-Id") in sessions else "deleted nothing")
        self.reply(200)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", int(os.environ["PEER_PORT"])), Handler)
print(server.server_address[1], flush=True)
# Ends with whoever started it.
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.serve_forever(poll_interval=0.01)
