#!/usr/bin/env python3
"""Replays recorded agent runs as one swarm while the daemon and the clients are killed with -9, then checks everything.

    python3 examples/replay/run.py --binary target/release/swarmkeep --kills 30 --seed 1

Every trace is an agent, every agent a process of its own (worker.py); `log` consumes the messages, reconciler.py settles
unknown outcomes, subscriber.py follows the feed. First an undisturbed run, then one of the same input in which

* the daemon is killed `--kills` times at random moments of the work, now and then once more while it comes back;
* clients are killed at random moments, half as often;
* workers kill themselves exactly after a begin, after the side effect and after a finish, half as often again.

What is checked, and what is masked, stands in check.py. Exit code 0: everything held; 1: something did not, and the
folder with store, evidence and logs is kept and named; 2: wrong usage.
"""

import argparse
import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import check  # noqa: E402
import traces as runs  # noqa: E402
import worker  # noqa: E402
from daemon import Daemon, tail  # noqa: E402
from evidence import Acks, Lines, read_lines  # noqa: E402
from swarmkeep_agent import Swarm  # noqa: E402

SESSION = "replay/swarm"
OPERATIONS_PER_KILL = 80


class Failed(Exception):
    """The replay itself did not get to its end."""


class Client:
    """A process of the replay that is started again after each death."""

    def __init__(self, name, script, arguments, folder):
        self.name, self.script, self.arguments = name, script, arguments
        self.log = os.path.join(folder, "logs", name + ".log")
        self.process, self.done = None, False

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([sys.executable, str(HERE / self.script), *self.arguments],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Replay:
    """One run of the whole swarm over one store."""

    def __init__(self, options, found, loops, folder, progress):
        self.options, self.found, self.loops, self.folder, self.progress = options, found, loops, folder, progress
        for name in ("acks", "logs", "deaths"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        self.daemon = Daemon(options.binary, os.path.join(folder, "store"), os.path.join(folder, "logs", "daemon.log"))
        self.programs = {trace.agent: worker.program(trace, loops) for trace in found}
        self.operations = sum(map(len, self.programs.values()))
        self.messages = sum(worker.messages(trace, loops) for trace in found)
        self.effects = [worker.effect_key(trace, run, index) for trace in found for run in range(loops)
                        for index in range(len(trace.steps))]
        self.kills = {"daemon": 0, "daemon coming back": 0, "client": 0, "client at an exact point": 0}
        self.exact = {}
        self.read = {}
        self.finished = 0

    # the cast

    def swarm(self, client):
        return Swarm(self.daemon.address, SESSION, client=client, patience=300)

    def set_up(self):
        """Session, the agent that consumes, and what it listens to: before anybody writes to it."""
        self.daemon.start()
        self.daemon.wait_ready()
        swarm, acks = self.swarm("setup").open(), Acks(self.folder, "setup")
        log = swarm.agent("log", kind="consumer", request="setup:1")
        if log.reply:
            acks.note("spawn", log.reply, "setup:1")
        acks.note("listen", log.listen("history", request="setup:2"), "setup:2")
        swarm.close()

    def cast(self):
        """Every client, by name. Half of the workers come through TCP, half through the control socket."""
        common = ["--session", SESSION, "--folder", self.folder]
        given = ["--seed", str(self.options.seed)] + (["--traces", self.options.traces] if self.options.traces else [])
        clients = {}

        def add(name, script, *arguments, address=self.daemon.address):
            clients[name] = Client(name, script, ["--address", address, *common, *arguments], self.folder)

        add("subscriber", "subscriber.py")
        add("reconciler", "reconciler.py", *given)
        add("log", "worker.py", "--agent", "log", "--expect", str(self.messages))
        for number, trace in enumerate(self.found):
            deaths = [argument for at in self.exact.get(trace.agent, ()) for argument in ("--die-at", at)]
            add(trace.agent, "worker.py", "--agent", trace.agent, "--loops", str(self.loops), *given, *deaths,
                address=self.daemon.socket if number % 2 else self.daemon.address)
        return clients

    # the run

    def run(self, kills=0, client_kills=0, exact_deaths=0):
        rng = random.Random(f"replay {self.options.seed}")
        self.plan_exact_deaths(rng, exact_deaths)
        self.set_up()
        self.clients = self.cast()
        for client in self.clients.values():
            client.start()
        # A kill is due when so many operations are done: work goes on around each of them, on any machine.
        moments = [(at, "daemon") for at in self.moments(rng, kills)]
        moments += [(at, "client") for at in self.moments(rng, client_kills)]
        moments.sort()
        self.looked, self.size, self.moved = 0.0, 0, time.monotonic()
        while not self.over():
            if moments and self.finished >= moments[0][0]:
                _, what = moments.pop(0)
                time.sleep(rng.uniform(0, 0.02))
                if what == "daemon":
                    self.kill_daemon(rng, again=bool(moments) and rng.random() < 0.1)
                else:
                    self.kill_client(rng)
            self.watch()
            time.sleep(0.004)
        if moments:
            raise Failed(f"{len(moments)} kills were not carried out: the work was over before; use more --loops")

    def moments(self, rng, count):
        # The last operations are left in peace, so that no kill comes too late.
        span = range(self.operations // 50, self.operations - self.operations // 12)
        return sorted(rng.sample(span, count)) if count <= len(span) else sorted(rng.choices(span, k=count))

    def plan_exact_deaths(self, rng, count):
        """Spreads deaths over agents and points, at most one for each effect."""
        places = [(trace.agent, f"r{run}.s{index}.effect") for trace in self.found for run in range(self.loops)
                  for index in range(len(trace.steps))]
        for number, (agent, op) in enumerate(rng.sample(places, min(count, len(places)))):
            point = worker.DIE_POINTS[number % len(worker.DIE_POINTS)]
            self.exact.setdefault(agent, []).append(f"{op}@{point}")

    def kill_daemon(self, rng, again):
        self.daemon.kill()
        self.kills["daemon"] += 1
        self.daemon.start()
        if again:
            time.sleep(rng.uniform(0, 0.15))
            self.daemon.kill()
            self.kills["daemon coming back"] += 1
            self.daemon.start()
        self.daemon.wait_ready()

    def kill_client(self, rng):
        alive = [client for client in self.clients.values() if not client.done and client.process.poll() is None]
        if alive:
            client = rng.choice(sorted(alive, key=lambda client: client.name))
            client.kill()
            self.kills["client"] += 1
            client.start()

    def watch(self):
        """Counts what is done, starts again who died by its own hand, fails on anything else."""
        self.finished = 0
        for name in self.programs:
            self.finished += self.count(name)
        self.progress(self)
        for client in self.clients.values():
            code = client.process.poll()
            if client.done or code is None:
                continue
            if code == 0 and client.script == "worker.py":
                client.done = True
            elif code == -signal.SIGKILL:
                self.kills["client at an exact point"] += 1
                client.start()
            else:
                raise Failed(f"{client.name} ended by itself with {code}: {tail(client.log)}")
        if self.daemon.process.poll() is not None:
            raise Failed(f"the daemon ended by itself with {self.daemon.process.returncode}: {tail(self.daemon.log)}")
        self.stalled()

    def stalled(self):
        """Fails when nothing was acknowledged for a long time."""
        folder, now = os.path.join(self.folder, "acks"), time.monotonic()
        if now - self.looked < 1.0:
            return
        self.looked = now
        size = sum(os.path.getsize(entry.path) for entry in os.scandir(folder) if entry.name.endswith(".jsonl"))
        if size != self.size:
            self.size, self.moved = size, now
        elif now - self.moved > self.options.stall:
            slow = [client.name for client in self.clients.values() if not client.done and client.script == "worker.py"]
            raise Failed(f"nothing was acknowledged for {self.options.stall} s; waiting for {', '.join(slow)}")

    def count(self, name):
        """Operations that a worker has behind it; its file is read on from where it was last time."""
        state = self.read.setdefault(name, {"at": 0, "ops": set()})
        path = os.path.join(self.folder, "acks", name + ".jsonl")
        if os.path.exists(path) and os.path.getsize(path) > state["at"]:
            with open(path, "rb") as file:
                file.seek(state["at"])
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    state["at"] += len(line)
                    op = json.loads(line)["op"]
                    if not op.endswith((".begin", ".blob")):
                        state["ops"].add(op)
        return len(state["ops"])

    def over(self):
        return all(client.done for client in self.clients.values() if client.script == "worker.py")

    # the end

    def collect(self):
        """Reads log and state back, after one more kill, so that what is read was on disk; then a clean stop."""
        for client in self.clients.values():
            # Nobody writes any more; the subscriber reads to the end.
            if client.name != "subscriber" and client.process.poll() is None:
                client.kill()
        self.daemon.kill()
        self.kills["daemon"] += 1
        self.daemon.start()
        self.daemon.wait_ready()
        swarm = self.swarm("harness")
        records = list(swarm.records())
        state = swarm.state()
        out = Lines(os.path.join(self.folder, "records.jsonl"), sync=False)
        for record in records:
            out.append(record)
        self.write("state.json", state)
        self.write("plan.json", {"effects": self.effects, "messages": self.messages, "loops": self.loops,
                                 "exact_deaths": sum(map(len, self.exact.values()))})
        violations = list(self.spoiled_blobs(swarm, state))
        verdict = swarm.call("POST", "/v1/verify", {})
        violations += [f"verify: {json.dumps(finding)}" for finding in verdict["findings"]]
        self.wait_for_feed(records[-1]["seq"] if records else 0)
        self.clients["subscriber"].kill()
        code = self.daemon.stop()
        if code != 0:
            raise Failed(f"a clean stop ended with {code}: {tail(self.daemon.log)}")
        return violations

    def spoiled_blobs(self, swarm, state):
        """Observations kept as blobs that cannot be read back as they were."""
        by_agent = {trace.agent: trace for trace in self.found}
        for effect in state["effects"]:
            value = (effect.get("outcome") or {}).get("value") or {}
            if "blob" in value:
                asked = effect["request"]
                expected = by_agent[asked["trace"]].steps[asked["step"]].observation
                if swarm.blob(value["blob"]) != expected.encode("utf-8", "surrogatepass"):
                    yield f"blobs: {effect['id']} reads back as other bytes than were stored"

    def wait_for_feed(self, head):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            seen = read_lines(os.path.join(self.folder, "feed.jsonl"))
            if seen and seen[-1]["seq"] >= head:
                return
            time.sleep(0.05)

    def write(self, name, document):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            json.dump(document, file)

    def end(self):
        """Ends every process that is still there."""
        for client in getattr(self, "clients", {}).values():
            if client.process is not None and client.process.poll() is None:
                client.kill()
        if self.daemon.process is not None and self.daemon.process.poll() is None:
            self.daemon.kill()


def progress_line(label, total_kills, quiet):
    """A line that is rewritten on a terminal, and written now and then elsewhere."""
    last = {"at": 0.0}
    terminal = sys.stderr.isatty()

    def show(replay):
        now = time.monotonic()
        if quiet or now - last["at"] < (0.2 if terminal else 10.0):
            return
        last["at"] = now
        done = sum(replay.kills.values())
        text = f"{label}: {replay.finished}/{replay.operations} operations, {done} of about {total_kills} kills"
        print(("\r\033[K" if terminal else "") + text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    return show


def table(rows):
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name.ljust(width)}  {value}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the swarmkeep program")
    parser.add_argument("--kills", type=int, default=30, help="kills of the daemon (default 30); clients: as many again")
    parser.add_argument("--loops", type=int, help="runs of each trace (default: enough for the kills)")
    parser.add_argument("--stall", type=int, default=90, help="fail when nothing is acknowledged for so many seconds")
    parser.add_argument("--folder", help="where store and evidence go (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the folder also when everything held")
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.add_argument("--tamper", choices=sorted(check.TAMPER), help="spoil the evidence before it is checked: must fail")
    parser.add_argument("--teeth", action="store_true",
                        help="afterwards spoil copies of the evidence in every way and see that each is found")
    runs.add_arguments(parser)
    options = parser.parse_args()
    options.binary = os.path.abspath(options.binary)
    if not os.access(options.binary, os.X_OK):
        parser.error(f"{options.binary} is not a program")
    return options


def toothless(evidence):
    """Ways to spoil the evidence that the checks do not find."""
    for name, spoil in check.TAMPER.items():
        spoiled = copy.deepcopy(evidence)
        spoil(spoiled)
        if not check.check(spoiled):
            yield f"the checks do not find spoiled evidence: {name}"


def main():
    options = arguments()
    found, where = runs.find(options)
    steps = sum(len(trace.steps) for trace in found)
    per_loop = sum(len(worker.program(trace, 1)) for trace in found)
    loops = options.loops or max(2, -(-options.kills * OPERATIONS_PER_KILL // per_loop))
    folder = os.path.abspath(options.folder or tempfile.mkdtemp(prefix="swarmkeep-replay-"))
    if not options.json:
        print(f"{where}; each {loops} times: {steps * loops} steps; seed {options.seed}", flush=True)
    client_kills, exact = -(-options.kills // 2), -(-options.kills // 2)
    total = options.kills + client_kills + exact
    violations, figures, began = [], {}, time.monotonic()
    undisturbed = Replay(options, found, loops, os.path.join(folder, "undisturbed"),
                         progress_line("undisturbed", 0, options.json))
    disturbed = Replay(options, found, loops, os.path.join(folder, "disturbed"),
                       progress_line("disturbed", total, options.json))
    try:
        undisturbed.run()
        violations += undisturbed.collect()
        shutil.copy(os.path.join(undisturbed.folder, "state.json"), os.path.join(folder, "reference-state.json"))
        os.makedirs(disturbed.folder, exist_ok=True)
        shutil.copy(os.path.join(folder, "reference-state.json"), os.path.join(disturbed.folder, "reference-state.json"))
        try:
            disturbed.run(options.kills, client_kills, exact)
        except Failed as error:
            # What is there can still be checked: it often says why.
            violations.append(str(error))
        violations += disturbed.collect()
        evidence = check.Evidence(disturbed.folder)
        if options.tamper:
            check.TAMPER[options.tamper](evidence)
        violations += check.check(evidence)
        if options.teeth and not violations:
            violations += toothless(evidence)
        figures = check.numbers(evidence)
    except (Failed, RuntimeError) as error:
        violations.append(str(error))
    except KeyboardInterrupt:
        violations.append("interrupted")
    finally:
        undisturbed.end()
        disturbed.end()
    if sys.stderr.isatty() and not options.json:
        print("\r\033[K", end="", file=sys.stderr)
    return report(options, folder, where, steps * loops, disturbed, violations, figures, time.monotonic() - began)


def report(options, folder, where, steps, replay, violations, figures, seconds):
    keep = bool(violations) or options.keep
    # The daemon's first start is not a return from a death.
    back = sorted(replay.daemon.back_ms[1:])
    figures = {
        "steps": steps, **figures, "kills": replay.kills,
        "lost": sum("LOST" in sentence for sentence in violations),
        "repeated": sum("REPEATED" in sentence for sentence in violations),
        "back ms median": round(back[len(back) // 2]) if back else None, "back ms max": round(back[-1]) if back else None,
        "violations": len(violations), "seconds": round(seconds, 1),
    }
    if options.json:
        print(json.dumps({key.replace(" ", "_"): value for key, value in figures.items()}
                         | {"input": where, "seed": options.seed, "problems": violations[:100],
                            "folder": folder if keep else None}))
    else:
        rows = [(key, value) for key, value in figures.items() if key != "kills"]
        rows[1:1] = [(f"kill -9: {name}", count) for name, count in replay.kills.items()]
        table(rows)
        for sentence in violations[:30]:
            print("  VIOLATION " + sentence)
        if len(violations) > 30:
            print(f"  … and {len(violations) - 30} more")
        if keep:
            print(f"  store, evidence and logs: {folder}")
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
