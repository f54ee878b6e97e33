"""A client that speaks JSON-RPC over a program's pipes, and a real server that is killed and started again."""

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time

# How long a call may take before it counts as not answered, in seconds.
PATIENCE = 45


class Upstream:
    """A real server on a port of its own."""

    def __init__(self, node, packages, transport="streamableHttp"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [node, f"{packages}/node_modules/@modelcontextprotocol/server-everything/dist/index.js", transport]
        self.process = None
        self.start()

    def start(self):
        environment = dict(os.environ, PORT=str(self.port))
        self.process = subprocess.Popen(
            self.command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise SystemExit("server-everything does not listen")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/mcp"


class Client:
    """A client at a proxy's pipes."""

    def __init__(self, command, log):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.came = queue.Queue()
        self.number = 0
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                self.came.put(json.loads(line))
        self.came.put(None)

    def say(self, message):
        try:
            self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass

    def ask(self, method, params, patience=PATIENCE):
        """Whether it was carried out, and what was said."""
        self.number += 1
        self.say({"id": self.number, "method": method, "params": params})
        until = time.monotonic() + patience
        while True:
            try:
                message = self.came.get(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                return False, "no answer"
            if message is None:
                self.came.put(None)
                return False, f"the proxy's process ended ({self.process.wait()})"
            if message.get("method") and "id" in message:
                # The server asks its client something.
                self.say({"id": message["id"], "result": {"roots": []} if message["method"] == "roots/list" else {}})
            elif message.get("id") == self.number:
                if "error" in message:
                    return False, f"error {message['error'].get('code')}: {message['error'].get('message')}"
                result = message["result"]
                return not result.get("isError"), json.dumps(result, sort_keys=True)

    def echo(self, text, patience=PATIENCE):
        done, said = self.ask("tools/call", {"name": "echo", "arguments": {"message": text}}, patience)
        return done and text in said, said

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
