"""Files that the processes of a replay leave behind, one per process: what was acknowledged, what was done outside.

Every file is written so that a process killed at any instant leaves whole lines, and perhaps one torn line at the end
that counts as not written.
"""

import json
import os
import re


class Lines:
    """A file of JSON lines, one writer. Opening it cuts off a torn last line."""

    def __init__(self, path, *, sync=True):
        self._sync = sync
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size, whole = os.fstat(self._file).st_size, 0
        self.entries = []
        with open(path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                self.entries.append(json.loads(line))
        if whole < size:
            os.ftruncate(self._file, whole)

    def append(self, entry):
        """Writes one line and, unless told otherwise, syncs it."""
        data = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        while data:
            data = data[os.write(self._file, data):]
        if self._sync:
            os.fsync(self._file)
        self.entries.append(entry)


class Acks(Lines):
    """What the daemon acknowledged to one client: written and synced before the client's next request."""

    def __init__(self, folder, client):
        super().__init__(os.path.join(folder, "acks", client + ".jsonl"))
        self.ops = {entry["op"]: entry for entry in self.entries}

    def note(self, op, reply, request=None, **more):
        """Notes that `op` was answered with `reply`."""
        entry = {"op": op, "request": request, "first": reply.first, "seq": reply.seq, "hash": reply.hash, **more}
        if reply.repeated:
            entry["repeated"] = True
        self.append(entry)
        self.ops[op] = entry


def read_lines(path):
    """The whole lines of a file of JSON lines; none if there is no file."""
    if not os.path.exists(path):
        return []
    with open(path, "rb") as file:
        return [json.loads(line) for line in file if line.endswith(b"\n")]


def do_outside(folder, key):
    """The side effect of an action: really done, and counted, in a file that the daemon knows nothing of. A line torn by
    a kill does not match and counts as not done."""
    handle = os.open(os.path.join(folder, "outside.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, f"\n{key} done\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def outside_counts(folder):
    """How often each key was done outside."""
    counts = {}
    path = os.path.join(folder, "outside.txt")
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            for key in re.findall(r"^(\S+) done$", file.read(), re.MULTILINE):
                counts[key] = counts.get(key, 0) + 1
    return counts
