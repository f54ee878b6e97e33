#!/usr/bin/env python3
"""One file that makes a plain Python agent durable. Python 3.9 or newer, nothing to install: copy it.

A first program. Kill it, kill the daemon, at any line; start it again: it goes on, and the mail is never sent twice (killed
inside `smtp_send` nobody knows whether it was: then `OutcomeUnknown` is raised until you say so, `swarm.resolve`).

    from swarmkeep_agent import Swarm

    swarm = Swarm("http://127.0.0.1:7420", "nightly", state_file="planner.state").open()
    with swarm.agent("planner") as me:                         # heartbeats run while the block runs
        swarm.create_task("write the morning mail", id="mail")  # the same id twice is the same task
        while (task := me.claim()) is not None:
            with me.effect("send " + task.id, task=task) as e:  # recorded before it is done, and after
                if e.run:                                       # false: it was done before a crash
                    e.result = smtp_send("Good morning")        # your own function
            swarm.set("last mail", e.result)
            task.complete({"message": e.result})

    for item in swarm.feed(from_="start"):                      # every record once, also across reconnects
        print(item.seq, item.type)

What it does for you:

* **Request ids.** Every write carries one (`client:counter`), and a repeat after a broken connection, a restart of the
  daemon or an answer `unknown` carries the *same* one: it is answered, not carried out again. With `state_file` the
  counter outlives this process.
* **Retries.** Connection errors and 503 are retried with growing pauses for `patience` seconds, then `Unreachable` is
  raised. The daemon may be killed and started again on the same address at any time.
* **Effects.** Something done outside (a tool call, a mail, a payment) is wrapped by `agent.effect(key)` or
  `agent.effect_run(key, function)`. After a crash a repeat gets the recorded result. If nobody knows whether it was done,
  `OutcomeUnknown` is raised: look at the outside world, then `swarm.resolve(key, ...)`, then begin again.
* **Tasks.** A restarted agent first goes on with the tasks it held. A heartbeat thread keeps its leases.
* **Errors.** One exception class for each problem code of the API, all of them `SwarmError`.

Addresses: `http://127.0.0.1:7420` (`127.0.0.1:7420` is the same), `https://host:port` for a daemon with TLS (`cafile` names
the certificate to trust where it is not one that the system knows), or `unix:/path/to/store/control.sock`. A `Swarm` may be
used by several threads.
"""

import http.client
import inspect
import json
import os
import random
import socket
import ssl
import threading
import time
import urllib.parse
import uuid
import warnings

__all__ = [
    "NOT_DONE", "Agent", "AlreadyExists", "Conflict", "Corrupt", "Diverged", "Done", "Effect", "EffectFailed", "FeedItem",
    "FencedOut", "Forbidden",
    "InProgress", "Internal", "Invalid", "LeaseLost", "LimitReached", "MethodNotAllowed", "NeedsDecision", "NotFound",
    "OutcomeUnknown",
    "PreconditionFailed", "Reply", "RequestIds", "RequestMismatch", "RequestTooOld", "ResultNotKept", "Retry",
    "SessionNotLive", "StateFileInUse", "Swarm", "SwarmError", "Task", "TimedOut", "Unauthorized", "Unavailable",
    "Unknown", "Unreachable", "UnsupportedMediaType", "WrongState",
]


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class SwarmError(Exception):
    """A problem that the daemon answered with. `code` is stable; `detail` says what to do; `current` is the number that
    a conflict lost against."""

    code = "error"

    def __init__(self, detail, status=0, code=None, hint=None, current=None, body=None):
        super().__init__(detail if not hint else f"{detail} ({hint})")
        self.detail, self.status, self.hint, self.current, self.body = detail, status, hint, current, body
        self.code = code or type(self).code


class Invalid(SwarmError):
    """The call itself is wrong: fix it."""
    code = "invalid"


class Unauthorized(SwarmError):
    """The daemon wants a token, and was shown none or another one."""
    code = "unauthorized"


class Forbidden(SwarmError):
    """Not under this Host or from this Origin: the daemon's setting `hosts` or `origins` names the allowed ones."""
    code = "forbidden"


class MethodNotAllowed(SwarmError):
    """The path is there, and does not take this method."""
    code = "method_not_allowed"


class TimedOut(SwarmError):
    """The request took too long to arrive: nothing was done."""
    code = "timeout"


class PreconditionFailed(SwarmError):
    """It is not where an `If-Match` expected it; `current` is the number now."""
    code = "precondition_failed"


class UnsupportedMediaType(SwarmError):
    """Not a kind of body that this call takes."""
    code = "unsupported_media_type"


class Internal(SwarmError):
    """A fault in the daemon: its log has the details."""
    code = "internal"


class Retry(SwarmError):
    """Not now; nothing was done. Raised when `patience` is over."""
    code = "retry"


class NotFound(SwarmError):
    """No such session or entity."""
    code = "not_found"


class AlreadyExists(SwarmError):
    """A session or entity of that id or name exists."""
    code = "already_exists"


class Conflict(SwarmError):
    """Somebody else was faster; `current` is the number now: read again, decide again."""
    code = "conflict"


class LeaseLost(SwarmError):
    """Another worker has the task: stop working on it."""
    code = "lease_lost"


class WrongState(SwarmError):
    """The entity is in a state that does not allow this."""
    code = "wrong_state"


class SessionNotLive(SwarmError):
    """The session is paused, closed or expired."""
    code = "session_not_live"


class OutcomeUnknown(SwarmError):
    """The effect was begun, and nobody knows whether it was done: resolve it, never repeat it blindly. The text of the error
    names the calls that do."""
    code = "outcome_unknown"

    def __init__(self, detail, status=0, code=None, hint=None, current=None, body=None, key=None):
        if key is not None:
            hint = (f"look outside whether it was done; then swarm.resolve({key!r}, by='user:NAME', done=True, value=RESULT) "
                    f"if it was, or swarm.resolve({key!r}, by='user:NAME', done=False) if it was not, and begin it again")
        super().__init__(detail, status, code, hint, current, body)


class InProgress(SwarmError):
    """Another live worker is carrying out this effect now."""
    code = "in_progress"


class NeedsDecision(SwarmError):
    """The session is damaged and waits for a person's decision: it can be read as far as it can be had, and takes no writes.
    The hint names what shows the damage, and what can be decided."""
    code = "needs_decision"


class RequestTooOld(SwarmError):
    """The request id is older than what the session remembers: this call did nothing."""
    code = "request_too_old"


class RequestMismatch(SwarmError):
    """The request id was carried out with another body."""
    code = "request_mismatch"


class LimitReached(SwarmError):
    """A named limit is reached."""
    code = "limit"


class Unavailable(SwarmError):
    """The store cannot write now; nothing was written. Raised when `patience` is over."""
    code = "unavailable"


class FencedOut(SwarmError):
    """Another process has taken the store over; nothing was written. Raised when `patience` is over: go to that one."""
    code = "fenced_out"


class Unknown(SwarmError):
    """It may or may not have been written. Raised when `patience` is over: repeat with the same request id."""
    code = "unknown"


class Corrupt(SwarmError):
    """Data at rest is damaged; the hint names the report."""
    code = "corrupt"


class Diverged(SwarmError):
    """The feed token is of another history; `current` is the last seq in common, where known."""
    code = "diverged"


class Unreachable(SwarmError):
    """No daemon answered for `patience` seconds, and a write may or may not have happened: repeat with the same request id.
    Or none can: a certificate that is not trusted, TLS on one side only; then it is raised at once and nothing was done."""
    code = "unreachable"


class EffectFailed(Exception):
    """Raise it inside an effect that failed *for certain*: the failure is recorded and is what a repeat gets. Any other
    exception leaves the outcome open, because it may have been raised after the deed."""

    def __init__(self, value=None):
        super().__init__(value)
        self.value = value


class ResultNotKept(Exception):
    """The effect was done and is recorded as done, but its result cannot be kept: it is no JSON, or too large. In its place
    stands `{"not_kept": why, "repr": its beginning}`, which is what a repeat gets. Make the result of the function JSON."""

    def __init__(self, key, why, mark):
        super().__init__(f"effect `{key}` was done and is recorded, without its result: {why}")
        self.key, self.mark = key, mark


_BY_CODE = {error.code: error for error in SwarmError.__subclasses__()}


# ── request ids ──────────────────────────────────────────────────────────────────────────────────────────────────────


class StateFileInUse(RuntimeError):
    """Another process counts its requests in this state file."""


class RequestIds:
    """Makes `client:1`, `client:2`, …. With a file, numbers are reserved there (synced) before they are used, so a
    restarted process never uses one twice; a crash skips at most `RESERVE` of them, which the daemon allows."""

    RESERVE = 16

    def __init__(self, client=None, state_file=None):
        self._lock = threading.Lock()
        self._file = os.fspath(state_file) if state_file else None
        self._held = _hold(self._file) if self._file else None
        kept = {}
        if self._file and os.path.exists(self._file):
            with open(self._file, encoding="utf-8") as file:
                kept = json.load(file)
        self.client = client or kept.get("client") or "py-" + uuid.uuid4().hex[:12]
        self._next = self._reserved = int(kept.get("next", 1)) if kept.get("client", self.client) == self.client else 1

    def next(self):
        """The next id, as text."""
        with self._lock:
            if self._file and self._next >= self._reserved:
                self._reserved = self._next + self.RESERVE
                _write_synced(self._file, json.dumps({"client": self.client, "next": self._reserved}))
            number = self._next
            self._next += 1
            return f"{self.client}:{number}"

    def close(self):
        """Gives the state file free for another process; a process that ends does so by itself."""
        if self._held is not None:
            self._held.close()
            self._held = None


def _hold(path):
    """Keeps other processes from counting in the same file: two that do would answer each other's requests."""
    try:
        import fcntl
    except ImportError:  # not POSIX: whoever starts two processes on one file is on their own
        return None
    handle = open(path + ".lock", "a", encoding="utf-8")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise StateFileInUse(f"{path} is used by another process: give each process a state file of its own") from None
    return handle


def _write_synced(path, text):
    folder = os.path.dirname(os.path.abspath(path))
    draft = f"{path}.{os.getpid()}.new"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _TcpConnection(http.client.HTTPConnection):
    def connect(self):
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Reply:
    """What a write came to: `seq` and `hash` of the last record (they are durable), `first`, the `outcomes` (one for
    each command), `repeated` when this request had been carried out before."""

    def __init__(self, body):
        self.body = body
        self.first = body.get("first", 0)
        head = body.get("head") or {}
        self.seq, self.hash = head.get("seq", 0), head.get("hash", "")
        self.outcomes = body.get("outcomes", [])
        self.repeated = bool(body.get("repeated"))
        self.durability = body.get("durability")

    def outcome(self, kind, index=0):
        """The fields of outcome `index` if it is a `kind`, else None."""
        if index >= len(self.outcomes):
            return None
        outcome = self.outcomes[index]
        if outcome == kind:
            return {}
        return outcome.get(kind) if isinstance(outcome, dict) else None


class FeedItem:
    """A record: `seq`, `hash`, `time_ms`, `actor`, `type`, `data`; `token` resumes after it."""

    def __init__(self, token, record):
        self.token, self.record = token, record
        self.seq, self.hash, self.time_ms = record.get("seq", 0), record.get("hash", ""), record.get("time_ms", 0)
        self.actor, self.request = record.get("actor"), record.get("request")
        self.type, self.data = record.get("type"), record.get("data")


class Swarm:
    """One session on one daemon.

    address     `http://host:port`, `host:port`, `https://host:port`, or `unix:/path/control.sock`
    session     `name` or `namespace/name`
    client      name in request ids; must be unique among those that write this session (default: random, kept in
                `state_file`)
    state_file  where the request counter outlives this process
    actor       who writes, for the log (default: the client)
    token       bearer token, where the daemon wants one
    cafile      with https: a PEM file of the certificates to trust, instead of the system's
    patience    seconds to go on trying while the daemon is away; None: for ever
    timeout     seconds to wait for one answer
    """

    def __init__(self, address, session, *, client=None, state_file=None, actor=None, token=None, patience=120.0,
                 timeout=30.0, cafile=None):
        namespace, _, name = session.rpartition("/")
        self.session = f"{namespace or 'default'}/{name}"
        self._root = f"/v1/sessions/{_quote(namespace or 'default')}/{_quote(name)}"
        self._address, self._token, self._patience, self._timeout = _address(address), token, patience, timeout
        is_tls = self._address.startswith("https:")
        self._tls = ssl.create_default_context(cafile=cafile) if is_tls else None
        self.ids = RequestIds(client, state_file)
        self.actor = actor or self.ids.client
        self._local = threading.local()
        self.retries = 0
        # Set while the session is damaged and waits for a person's decision: how much of it can be had.
        self.damage = None

    # connections and retries

    def _connect(self, timeout):
        if self._address.startswith("unix:"):
            path = self._address[len("unix:"):]
            return _UnixConnection("/" + path.lstrip("/") if path.startswith("//") else path, timeout)
        parts = urllib.parse.urlsplit(self._address)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname, parts.port or 443, timeout=timeout, context=self._tls)
        return _TcpConnection(parts.hostname, parts.port or 7420, timeout=timeout)

    def _headers(self, extra=None):
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = "Bearer " + self._token
        headers.update(extra or {})
        return headers

    def _say_once(self, path, body):
        """Says something that is no loss if nobody hears it."""
        headers = self._headers({"Content-Type": "application/json"})
        try:
            self._exchange("POST", f"{self._root}/{path}", _encode(body), headers)
        except (OSError, http.client.HTTPException):
            self._drop()

    def call(self, method, path, body=None, *, headers=None, request=None, raw=False):
        """One HTTP call, repeated until it is answered. `path` is below the session unless it begins with `/`. A
        repeat carries the same request id. Returns the decoded JSON (or the bytes, with `raw`)."""
        url = path if path.startswith("/") else f"{self._root}/{path}".rstrip("/")
        headers = self._headers(headers)
        if isinstance(body, (bytes, bytearray)):
            data = bytes(body)
            headers.setdefault("Content-Type", "application/octet-stream")
        elif body is not None:
            data = _encode(body)
            headers.setdefault("Content-Type", "application/json")
        else:
            data = None
        if request:
            headers["Idempotency-Key"] = request
        started, attempt = time.monotonic(), 0
        while True:
            fresh = getattr(self._local, "connection", None) is None
            problem = None
            try:
                status, answer_headers, answer = self._exchange(method, url, data, headers)
                if status < 400:
                    return answer if raw else (json.loads(answer) if answer else {})
                problem = _problem(status, answer)
                if status != 503:
                    raise problem
                pause_hint = answer_headers.get("Retry-After")
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                self._raise_hopeless(error)
                problem, pause_hint = Unreachable(f"{self._address}: {error or type(error).__name__}"), None
                if not fresh and attempt == 0:
                    # A kept connection that the other side had closed says nothing about the daemon.
                    attempt, pause_hint = attempt + 1, 0
                    self.retries += 1
                    continue
            attempt += 1
            self.retries += 1
            if self._patience is not None and time.monotonic() - started > self._patience:
                raise problem
            pause = min(1.0, 0.01 * 2 ** min(attempt, 10)) * random.uniform(0.5, 1.0)
            if pause_hint and str(pause_hint).isdigit() and attempt > 3:
                pause = max(pause, min(float(pause_hint), 1.0))
            time.sleep(pause)

    def _exchange(self, method, url, data, headers):
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect(self._timeout)
        connection.request(method, url, body=data, headers=headers)
        answer = connection.getresponse()
        payload = answer.read()
        left = answer.headers.get("swarmkeep-damage") if url.startswith(self._root) else self.damage
        if left and left != self.damage:
            warnings.warn(f"{self.session} is damaged, and waits for a decision: what is read is what can be had of it, {left}",
                          RuntimeWarning, stacklevel=4)
        self.damage = left
        if answer.will_close:
            self._drop()
        return answer.status, answer.headers, payload

    def _raise_hopeless(self, error):
        """Raises what no patience mends; none of it was carried out."""
        if isinstance(error, http.client.InvalidURL):
            raise Invalid(f"{error}") from None
        if isinstance(error, ssl.SSLCertVerificationError):
            raise Unreachable(f"{self._address}: the certificate is not trusted: {error.verify_message}",
                              hint="cafile= names a PEM file with a certificate to trust") from None
        if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            raise Unreachable(f"{self._address}: no TLS is spoken there", hint="use http://") from None
        # An alert of TLS in the place of a status line.
        if isinstance(error, http.client.BadStatusLine) and str(error.line).startswith("\x15\x03"):
            raise Unreachable(f"{self._address}: TLS is spoken there", hint="use https://") from None

    def _drop(self):
        connection, self._local.connection = getattr(self._local, "connection", None), None
        if connection is not None:
            connection.close()

    def close(self):
        """Closes this thread's connection. The session stays as it is."""
        self._drop()

    # the session

    def open(self, **fields):
        """Resumes the session exactly where it stood, or creates it. `fields`: owner, metadata, ttl_ms, idle_ttl_ms."""
        self.call("POST", "open", fields)
        return self

    def info(self):
        """Name, status, head, counts."""
        return self.call("GET", "")

    def state(self, at=None):
        """The whole state, now or at a seq."""
        return self.call("GET", "state" if at is None else f"state?at={int(at)}")

    def submit(self, commands, *, request=None, actor=None, expected_seq=None, relaxed=False):
        """Several commands as one group, all or nothing. `commands` is a list of `{"name": {fields}}`. `request`: an id
        of your own making; the same one again, even by another process, is answered, not carried out again."""
        body = {"commands": commands, "actor": actor or self.actor}
        if expected_seq is not None:
            body["expected_seq"] = expected_seq
        if relaxed:
            body["durability"] = "relaxed"
        return Reply(self.call("POST", "commands", body, request=request or self.ids.next()))

    def records(self, after=0, limit=1000):
        """Every record after a seq, in order, page by page, up to the head."""
        while True:
            page = self.call("GET", f"records?after={after}&limit={limit}")
            yield from page["records"]
            if not page["records"] or page["records"][-1]["seq"] >= page["head"]["seq"]:
                return
            after = page["records"][-1]["seq"]

    # agents and tasks

    def agent(self, id, *, kind="worker", name=None, capabilities=(), configuration=None, request=None):
        """The agent of this id; it is made when there is none."""
        fields = {"id": id, "kind": kind, "capabilities": list(capabilities), "configuration": configuration or {}}
        if name is not None:
            fields["name"] = name
        reply = None
        try:
            reply = self.submit([{"spawn_agent": fields}], request=request, actor=id)
        except AlreadyExists:
            pass
        return Agent(self, id, reply)

    def create_task(self, title, *, id=None, kind="task", payload=None, priority=5, parent=None, assign=None,
                    max_retries=None, request=None):
        """Puts a task on the list and returns its id. A task of the same id that is already there is left alone."""
        fields = {"id": id, "kind": kind, "title": title, "payload": payload, "priority": priority, "parent": parent,
                  "assign": assign, "max_retries": max_retries}
        fields = {key: value for key, value in fields.items() if value is not None}
        try:
            return (self.submit([{"create_task": fields}], request=request).outcome("done") or {}).get("id", id)
        except AlreadyExists:
            return id

    def task(self, id):
        """A task as it stands."""
        return self.call("GET", "tasks/" + _quote(id))

    # memory

    def entry(self, key, *, scope="shared"):
        """A memory entry with its `value` and `version`, or None."""
        try:
            return self.call("GET", f"memory/{_quote(scope)}/{_quote(key)}")
        except NotFound:
            return None

    def get(self, key, default=None, *, scope="shared"):
        """A remembered value."""
        entry = self.entry(key, scope=scope)
        return default if entry is None else entry["value"]

    def set(self, key, value, *, scope="shared", ttl_ms=None, if_version=None, request=None, actor=None):
        """Remembers a value. `if_version`: only if the entry is at this version (0: only if there is none), else
        `Conflict`. Returns the reply."""
        fields = {"scope": scope, "key": key, "value": value}
        if ttl_ms is not None:
            fields["ttl_ms"] = ttl_ms
        if if_version is not None:
            fields["if_version"] = if_version
        return self.submit([{"set_memory": fields}], request=request, actor=actor)

    def cas(self, key, change, *, scope="shared", request=None, actor=None):
        """Compare-and-set: stores `change(value or None)` and tries again when somebody else was faster. Returns the
        new value. With a `request` of your own a repeat raises `RequestMismatch` if the change was made before."""
        while True:
            entry = self.entry(key, scope=scope)
            value = change(None if entry is None else entry["value"])
            try:
                self.set(key, value, scope=scope, if_version=0 if entry is None else entry["version"], request=request,
                         actor=actor)
                return value
            except Conflict:
                time.sleep(random.uniform(0.001, 0.02))

    def forget(self, key, *, scope="shared", request=None):
        """Removes a value; removing what is not there is no error."""
        return self.submit([{"delete_memory": {"scope": scope, "key": key}}], request=request)

    # effects and blobs

    def effect_state(self, key):
        """An effect as it stands, or None."""
        try:
            return self.call("GET", "effects/" + _quote(key))
        except NotFound:
            return None

    def resolve(self, key, *, by, done, value=None, ok=True, attempt=None, request=None):
        """Settles a doubt after a look at the outside world. `by`: `reconciler:NAME` or `user:NAME`; `done` false: it
        was not done, and the next begin may do it. `attempt`: the one that was looked into; `WrongState` where another one is
        in doubt by now."""
        fields = {"effect": key, "by": by}
        if attempt is not None:
            fields["attempt"] = attempt
        if done:
            fields["outcome"] = {"ok": ok, "value": value}
        return self.submit([{"resolve_effect": fields}], request=request)

    def put_blob(self, data, *, label="content", request=None):
        """Stores up to 64 MiB of bytes, and returns their id (the same bytes have the same id) and the reply."""
        body = self.call("POST", "blobs?label=" + _quote(label), data, request=request or self.ids.next())
        return body["id"], Reply(body)

    def blob(self, id):
        """The bytes of a blob."""
        return self.call("GET", "blobs/" + id, raw=True)

    # the feed

    def feed(self, from_="now", *, until=None):
        """Every record after `from_` (`start`, `now`, a seq, or a token), each once and in order, for ever: it
        reconnects by itself. `until`: a seq after which it ends."""
        position, last = str(from_), None
        started, attempt = time.monotonic(), 0
        while True:
            connection = self._connect(45.0)
            try:
                headers = self._headers({"Accept": "text/event-stream"})
                if last is not None:
                    headers["Last-Event-ID"] = position
                connection.request("GET", f"{self._root}/feed?from={_quote(position)}", headers=headers)
                answer = connection.getresponse()
                if answer.status >= 400:
                    problem = _problem(answer.status, answer.read())
                    if answer.status != 503:
                        raise problem
                    raise OSError(problem.detail)
                for event, token, data in _events(answer):
                    started, attempt = time.monotonic(), 0
                    if event == "closing":
                        said = json.loads(data or "{}")
                        if said.get("reason") == "failed":
                            raise SwarmError(said.get("error") or "the feed ended, and nothing says why")
                        break
                    if not data or not token:
                        # Where the feed starts: cut off before an item, it goes on from there.
                        position = token or position
                        continue
                    item = FeedItem(token, json.loads(data))
                    position, last = token, item.seq
                    yield item
                    if until is not None and item.seq >= until:
                        return
            except (OSError, http.client.HTTPException) as error:
                self._raise_hopeless(error)
                if self._patience is not None and time.monotonic() - started > self._patience:
                    raise Unreachable(f"{self._address}: {error}") from None
            finally:
                connection.close()
            attempt += 1
            time.sleep(min(1.0, 0.01 * 2 ** min(attempt, 10)) * random.uniform(0.5, 1.0))


def _address(text):
    scheme, found, _ = text.partition(":")
    if found and scheme in ("http", "https", "unix"):
        return text
    if "://" in text or not text:
        raise ValueError(f"address `{text}`: use http://HOST:PORT, HOST:PORT, or unix:/path/to/store/control.sock")
    return "http://" + text


def _encode(body):
    try:
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"cannot be written as JSON: {error}") from None
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        # A lone surrogate (a file name, a model's broken emoji) has no UTF-8, but JSON can spell it.
        return json.dumps(body, separators=(",", ":")).encode("ascii")


def _events(answer):
    event, token, data, named = None, None, [], False
    while True:
        line = answer.readline()
        if not line.endswith(b"\n"):
            # The end of the stream. An event without its empty line is not an event.
            return
        line = line.decode("utf-8").rstrip("\r\n")
        if not line:
            if event or data or named:
                yield event, token, "\n".join(data)
            event, data, named = None, [], False
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if field == "event":
                event = value
            elif field == "id":
                token, named = value, True
            elif field == "data":
                data.append(value)


def _problem(status, body):
    try:
        fields = json.loads(body)
        if not isinstance(fields, dict):
            raise ValueError
    except ValueError:
        fields = {"detail": body[:300].decode("utf-8", "replace")}
    code = fields.get("code") or ("unavailable" if status == 503 else "error")
    detail = fields.get("detail") or fields.get("title") or f"HTTP {status}"
    return _BY_CODE.get(code, SwarmError)(detail, status, code, fields.get("hint"),
                                          fields.get("current", fields.get("common")), fields)


def _quote(text):
    return urllib.parse.quote(str(text), safe="")


# ── an agent ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Agent:
    """An agent of the swarm, carried out by this process, and by one process at a time: a new one takes over what the one
    before it held. As a context manager it sends heartbeats while the block runs, for itself and for its leases."""

    def __init__(self, swarm, id, reply=None):
        self.swarm, self.id, self.reply = swarm, id, reply
        # Names this process to the daemon: a begin by another instance of the same agent is how a crash is seen.
        self.instance = f"{id[:200]}-{uuid.uuid4().hex[:12]}"
        self._left_open = {}
        self._tasks, self._lock, self._stop, self._thread = {}, threading.Lock(), threading.Event(), None
        self._rests = False
        self._inherited = None

    def __enter__(self):
        self.start_heartbeat()
        return self

    def __exit__(self, kind, *_):
        # What ended with an exception may be missed: then the session says that the agent is silent.
        self._rests = kind is None
        self._fall_silent()

    def _submit(self, command, fields, request=None):
        return self.swarm.submit([{command: fields}], request=request, actor=self.id)

    def status(self, status, reason=None, *, request=None):
        """idle, busy, failed or terminated."""
        return self._submit("set_agent_status", {"agent": self.id, "status": status, "reason": reason}, request)

    def metric(self, name, value, *, kind="performance", tags=None):
        """A measurement for the charts: kept within about a second, not part of the log."""
        metric = {"agent": self.id, "kind": kind, "name": name, "value": value, "tags": tags or {}}
        self.swarm.call("POST", "metrics", {"metrics": [metric]})

    # heartbeats

    def start_heartbeat(self, interval=5.0):
        """Starts the heartbeat thread; once."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._beat, args=(interval,), name=f"heartbeat {self.id}", daemon=True)
            self._thread.start()

    def close(self):
        """Stops the heartbeat. The agent stays in the session, ready to be resumed; its silence is no failure."""
        self._rests = True
        self._fall_silent()

    def _fall_silent(self):
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
            self._thread = None

    def _beat(self, interval):
        last = time.monotonic()
        while not self._stop.wait(min(1.0, interval)):
            with self._lock:
                leases = [task.lease_ms / 3000 for task in self._tasks.values() if task.lease_ms]
            if time.monotonic() - last < min([interval, *leases]):
                continue
            last = time.monotonic()
            try:
                self.swarm.call("POST", f"agents/{_quote(self.id)}/heartbeat", {})
            except (WrongState, NotFound) as error:
                warnings.warn(f"the heartbeat of agent `{self.id}` stops: {error}", RuntimeWarning, stacklevel=1)
                break
            except SwarmError:
                pass
            with self._lock:
                tasks = list(self._tasks.values())
            for task in tasks:
                try:
                    task.heartbeat()
                except SwarmError:
                    pass
        if self._rests:
            self.swarm._say_once(f"agents/{_quote(self.id)}/heartbeat", {"last": True})
        self.swarm.close()

    # tasks

    def held(self):
        """Tasks that this agent holds, those included that an earlier process of it claimed before it died."""
        rows = self.swarm.call("GET", f"tasks?status=running&limit=1000&agent={_quote(self.id)}")["tasks"]
        with self._lock:
            mine = dict(self._tasks)
        return [mine.get(row["id"]) or Task(self, row["id"], row["lease"]["number"], row=row) for row in rows]

    def claim(self, task=None, *, kinds=None, lease_ms=None, request=None):
        """Takes a task under a lease: the one named, or the first that fits; before all others those that an earlier
        process of this agent held when it died, under the same lease. None: nothing to take."""
        if self._inherited is None:
            self._inherited = self.held()
        for held in self._inherited:
            if held.id == task or (task is None and (kinds is None or held.row.get("kind") in kinds)):
                self._inherited.remove(held)
                return held
        fields = {"agent": self.id, "task": task, "kinds": kinds, "lease_ms": lease_ms}
        reply = self._submit("claim_task", {key: value for key, value in fields.items() if value is not None}, request)
        claimed = reply.outcome("claimed") or {}
        if not claimed.get("task"):
            return None
        return Task(self, claimed["task"], claimed["lease"], reply)

    # messages

    def send(self, content, *, to=None, topic=None, broadcast=False, id=None, correlation_id=None, request=None):
        """Sends a message to an agent (`to`), to a topic's listeners (`topic`), or to all (`broadcast`)."""
        if broadcast:
            address = "broadcast"
        else:
            address = {"agent": to} if to is not None else {"topic": topic}
        fields = {"from": self.id, "to": address, "content": content, "id": id, "correlation_id": correlation_id,
                  "topic": topic}
        return self._submit("send_message", {key: value for key, value in fields.items() if value is not None}, request)

    def receive(self, limit=10, *, request=None):
        """Up to `limit` messages that wait for this agent, oldest first. Each comes again until it is acknowledged."""
        body = self.swarm.call("POST", "messages/receive", {"agent": self.id, "limit": limit},
                               request=request or self.swarm.ids.next())
        self.last_reply = Reply(body)
        return body.get("messages") or []

    def acknowledge(self, *messages, request=None):
        """Consumed: they are not delivered again. All of them in one group."""
        ids = [message["id"] if isinstance(message, dict) else message for message in messages]
        commands = [{"acknowledge_message": {"message": id, "agent": self.id}} for id in ids]
        return self.swarm.submit(commands, request=request, actor=self.id)

    def listen(self, topic, *, request=None):
        """From now on this agent gets messages to `topic`."""
        return self._submit("subscribe", {"agent": self.id, "topic": topic}, request)

    # effects

    def effect(self, key, class_="at_most_once", *, task=None, request=None, deadline_ms=None, reconcile=None):
        """Something done outside, once: `with agent.effect(key) as e: if e.run: e.result = do()`. `class_`: `read` and
        `idempotent` are run again after a doubt, `at_most_once` waits for a reconciler or a person, `ask` for a person.
        `request` says what is asked for, for people and reconcilers. `reconcile` (class `at_most_once`): a function that is
        asked when nobody knows whether it was done. It gets the effect as it stands, looks outside, and returns
        `Done(value)`, `Done(error, ok=False)`, `NOT_DONE` (it is done now), or None (it cannot tell). Raises
        `OutcomeUnknown`, `InProgress`."""
        return Effect(self, key, class_, task, request, deadline_ms, reconcile)

    def effect_run(self, key, function, class_="at_most_once", **options):
        """Runs `function()` as an effect and returns its result, or the recorded one. An outcome recorded as failed
        raises `EffectFailed`. The result must be JSON: one that is not raises `ResultNotKept`, with the effect recorded as
        done."""
        _check_callable(function)
        with self.effect(key, class_, **options) as effect:
            if effect.run:
                effect.result = function()
        if not effect.ok:
            raise EffectFailed(effect.result)
        return effect.result


def _check_callable(function):
    """Before the begin: what cannot be called at all was certainly not done, and must leave no doubt."""
    if not callable(function):
        raise TypeError(f"effect_run(key, function): `function` is {type(function).__name__}, which cannot be called")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in functions need not say what they take
        return
    try:
        signature.bind()
    except TypeError as error:
        raise TypeError(f"effect_run(key, function): `function` is called without arguments: {error}; "
                        "wrap it: lambda: function(...)") from None


class Done:
    """What a reconciler found out: it was done, and this came of it."""

    def __init__(self, value=None, ok=True):
        self.value, self.ok = value, ok


NOT_DONE = object()
"""What a reconciler found out: it was not done, and will not be any more."""


class Effect:
    """See `Agent.effect`. `run`: do it now; `result`: what came of it, set by you or recorded; `ok`: whether it did what
    was asked."""

    def __init__(self, agent, key, class_, task, request, deadline_ms, reconcile=None):
        self.agent, self.key, self.class_ = agent, key, class_
        self._reconcile = reconcile if class_ == "at_most_once" else None
        self._task = task.id if isinstance(task, Task) else task
        self._request, self._deadline_ms = request, deadline_ms
        self.run, self.ok, self.result, self.attempt = False, True, None, None
        self.begun = self.finished = None

    def __enter__(self):
        instance = self.agent.instance
        if self.key in self.agent._left_open:
            instance += f".{self.agent._left_open[self.key]}"
        fields = {"effect": self.key, "class": self.class_, "agent": self.agent.id, "instance": instance,
                  "task": self._task, "request": self._request, "deadline_ms": self._deadline_ms}
        fields = {key: value for key, value in fields.items() if value is not None}
        reply = self._begin(fields)
        if reply is None:
            # Settled just now, by the reconciler or by somebody else who was faster.
            self._reconcile = None
            reply = self._begin(fields)
        self.begun = reply
        run, recorded, doubt = reply.outcome("run"), reply.outcome("recorded"), reply.outcome("unknown")
        if run is not None:
            self.run, self.attempt = True, run["attempt"]
        elif recorded is not None:
            self.ok, self.result = recorded["outcome"]["ok"], recorded["outcome"].get("value")
        elif doubt is not None:
            raise OutcomeUnknown(f"nobody knows whether `{self.key}` was done: {doubt.get('reason', '')}",
                                 body=reply.body, key=self.key)
        else:
            raise SwarmError(f"begin of `{self.key}` was answered with {reply.outcomes}")
        return self

    def _begin(self, fields):
        """The answer to a begin; None: there was a doubt, and the reconciler has settled it."""
        try:
            reply = self.agent._submit("begin_effect", fields)
        except OutcomeUnknown as doubt:
            if self._settled():
                return None
            raise OutcomeUnknown(doubt.detail, doubt.status, body=doubt.body, key=self.key) from None
        return None if reply.outcome("unknown") is not None and self._settled() else reply

    def _settled(self):
        if self._reconcile is None:
            return False
        swarm = self.agent.swarm
        stands = swarm.effect_state(self.key)
        found = self._reconcile(stands)
        if found is None:
            return False
        if found is not NOT_DONE and not isinstance(found, Done):
            raise TypeError(f"reconcile: it returned {found!r}; say Done(value), NOT_DONE or None")
        done = found is not NOT_DONE
        try:
            swarm.resolve(self.key, by=f"reconciler:{self.agent.id}", done=done, value=found.value if done else None,
                          ok=found.ok if done else True, attempt=stands.get("attempt"))
        except WrongState:
            # Settled by somebody else, or begun again since: the next begin says how it stands.
            pass
        return True

    def __exit__(self, kind, error, _):
        if not self.run:
            return False
        if kind is None:
            self._finish(True, self.result)
        elif isinstance(error, EffectFailed):
            self.ok, self.result = False, error.value
            self._finish(False, error.value)
        else:
            # Whether it was done is not known. To the log this process is another one from here on, for this key: the
            # next begin says `outcome_unknown`, or runs again where the class allows it.
            self.agent._left_open[self.key] = self.agent._left_open.get(self.key, 0) + 1
        return False

    def _finish(self, ok, value):
        fields = {"effect": self.key, "attempt": self.attempt, "outcome": {"ok": ok, "value": value}}
        try:
            self.finished = self.agent._submit("finish_effect", fields)
        except (Invalid, LimitReached) as error:
            # It happened. What cannot be kept of it must not make it look as if nobody knew.
            mark = {"not_kept": str(error)[:1000], "repr": _beginning(value)}
            fields["outcome"] = {"ok": ok, "value": mark}
            self.finished = self.agent._submit("finish_effect", fields)
            raise ResultNotKept(self.key, str(error), mark) from None


def _beginning(value):
    try:
        return repr(value)[:1000]
    except Exception:  # somebody's own __repr__
        return f"a {type(value).__name__}"


class Task:
    """A claimed task. As a context manager it is completed with `result` at the end of the block, and failed by an
    exception."""

    def __init__(self, agent, id, lease, reply=None, row=None):
        self.agent, self.id, self.lease, self.reply = agent, id, lease, reply
        self.result, self.lost = None, threading.Event()
        self._row = row
        claimed = (reply.outcome("claimed") if reply is not None else None) or (row or {}).get("lease") or {}
        self.lease_ms = claimed.get("lease_ms")
        with agent._lock:
            agent._tasks[id] = self

    @property
    def row(self):
        """The task as it stood when it was first looked at."""
        if self._row is None:
            self._row = self.agent.swarm.task(self.id)
        return self._row

    @property
    def payload(self):
        """Everything the worker needs, as the task's maker said it."""
        return self.row.get("payload")

    @property
    def title(self):
        """What to do, in one line."""
        return self.row.get("title")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if kind is None:
            self.complete(self.result)
        elif issubclass(kind, Exception) and not isinstance(error, LeaseLost):
            self.fail(f"{kind.__name__}: {error}"[:1000])
        return False

    def heartbeat(self):
        """Keeps the lease. `LeaseLost` (and `lost` is set): another worker has the task."""
        try:
            self.agent.swarm.call("POST", f"tasks/{_quote(self.id)}/heartbeat", {"lease": self.lease})
        except LeaseLost:
            self.lost.set()
            self._let_go()
            raise

    def complete(self, result=None, *, request=None):
        """Done."""
        return self._end("complete_task", {"result": result}, request)

    def fail(self, error, *, permanent=False, request=None):
        """This attempt failed; it is tried again until its retries are used up, unless `permanent`."""
        return self._end("fail_task", {"error": error, "permanent": permanent}, request)

    def release(self, *, request=None):
        """Gives the task back untouched."""
        return self._end("release_task", {}, request)

    def _end(self, command, fields, request):
        reply = self.agent._submit(command, {"task": self.id, "lease": self.lease, **fields}, request)
        self._let_go()
        return reply

    def _let_go(self):
        with self.agent._lock:
            self.agent._tasks.pop(self.id, None)
