"""The daemon under test: started, killed with -9, started again on the same address."""

import http.client
import os
import signal
import socket
import subprocess
import time


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    """`swarmkeep serve` on one store and one port."""

    def __init__(self, binary, store, log):
        self.binary, self.store, self.log, self.port = binary, store, log, free_port()
        self.process, self.back_ms, self.answer_ms = None, [], []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket(self):
        return "unix:" + os.path.join(self.store, "control.sock")

    def start(self):
        """Starts the process; does not wait."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--store", self.store, "--listen", f"127.0.0.1:{self.port}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.started = time.monotonic()

    def wait_ready(self, timeout=60.0):
        """Waits until the daemon is ready; notes how long its first answer and readiness took."""
        answered = False
        while time.monotonic() - self.started < timeout:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended by itself with {self.process.returncode}: {tail(self.log)}")
            if not answered and self._status("/health/live") == 200:
                answered = True
                self.answer_ms.append(1000 * (time.monotonic() - self.started))
            if answered and self._status("/health/ready") == 200:
                self.back_ms.append(1000 * (time.monotonic() - self.started))
                return
            time.sleep(0.002)
        raise RuntimeError(f"the daemon was not ready after {timeout:.0f} s: {tail(self.log)}")

    def _status(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def kill(self):
        """kill -9."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout=60.0):
        """A clean stop; the exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(timeout)


def tail(path, size=1500):
    """The end of a log file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - size))
            return file.read().decode("utf-8", "replace").strip() or "(nothing in its log)"
    except OSError as error:
        return str(error)
