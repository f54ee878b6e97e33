#!/usr/bin/env python3
"""One agent of a replay, as a process of its own: carries out a trace, step by step, run after run.

thought → message to the agent `log`; action → effect (`at_most_once`) whose deed is counted outside; observation → the
effect's outcome, or a blob; state → memory; the run → a task. A trace with a history only sends it as messages to the
topic `history`. The agent `log` consumes all of them.

May be killed at any instant and started again: it goes on after the last operation that its file of acknowledgements
holds, and repeats the one that was in flight with the same request id. Begins are different: their request ids are new in
every process, because another process must not take over an answer "do it now".
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import traces as runs  # noqa: E402
from evidence import Acks, Lines, do_outside  # noqa: E402
from swarmkeep_agent import Agent, Conflict, LeaseLost, OutcomeUnknown, RequestMismatch, Swarm  # noqa: E402

LEASE_MS = 300_000
DIE_POINTS = ("after-begin", "after-side-effect", "after-finish")


def program(trace, loops):
    """The operations of a trace in order, as (op, kind, run, index). An operation's request number is its place here,
    counted from 1, so that every process of the agent sends the same request under the same id."""
    ops = [("spawn", "spawn", 0, 0)]
    for run in range(loops):
        ops.append((f"r{run}.create", "create", run, 0))
        ops.append((f"r{run}.claim", "claim", run, 0))
        for index in range(len(trace.steps)):
            ops.append((f"r{run}.s{index}.thought", "thought", run, index))
            ops.append((f"r{run}.s{index}.effect", "effect", run, index))
            ops.append((f"r{run}.s{index}.state", "state", run, index))
        for index in range(len(trace.history)):
            ops.append((f"r{run}.h{index}", "history", run, index))
        ops.append((f"r{run}.complete", "complete", run, 0))
        ops.append((f"r{run}.count", "count", run, 0))
    ops.append(("end", "end", 0, 0))
    return ops


def messages(trace, loops):
    """How many messages a trace sends."""
    return loops * (len(trace.steps) + len(trace.history))


def effect_key(trace, run, index):
    """The key of a step's effect."""
    return f"{trace.agent}.r{run}.s{index}"


class Player:
    """Carries out the program of one trace."""

    def __init__(self, options, trace):
        self.trace, self.folder = trace, options.folder
        self.acks = Acks(options.folder, trace.agent)
        self.swarm = Swarm(options.address, options.session, client=trace.agent + "-effects", actor=trace.agent,
                           state_file=os.path.join(options.folder, "acks", trace.agent + ".ids"), patience=300)
        self.deaths = Lines(os.path.join(options.folder, "deaths", trace.agent + ".jsonl"))
        self.die_at = set(options.die_at) - {entry["at"] for entry in self.deaths.entries}
        self.agent = None

    def play(self, loops):
        for number, (op, kind, run, index) in enumerate(program(self.trace, loops), start=1):
            if op not in self.acks.ops:
                getattr(self, kind)(op, self.id(number), run, index)
            if kind == "spawn":
                self.agent = Agent(self.swarm, self.trace.agent)
                self.agent.start_heartbeat()
        self.agent.close()

    def id(self, number):
        return f"{self.trace.agent}:{number}"

    def submit(self, op, request, commands, **more):
        reply = self.swarm.submit(commands, request=request)
        self.acks.note(op, reply, request, **more)
        return reply

    def die(self, op, point):
        at = f"{op}@{point}"
        if at in self.die_at:
            self.deaths.append({"at": at})
            os.kill(os.getpid(), signal.SIGKILL)

    # one method per kind of operation

    def spawn(self, op, request, *_):
        configuration = {"steps": len(self.trace.steps)}
        self.submit(op, request, [{"spawn_agent": {"id": self.trace.agent, "kind": "replay", "capabilities": ["replay"],
                                                   "configuration": configuration}}])

    def task(self, run):
        return f"{self.trace.agent}.r{run}"

    def create(self, op, request, run, _):
        payload = {"run": run, "steps": len(self.trace.steps), "history": len(self.trace.history)}
        self.submit(op, request, [
            {"create_task": {"id": self.task(run), "kind": "run", "title": f"replay {self.trace.agent}, run {run}",
                             "priority": 5 + run % 3, "payload": payload, "assign": self.trace.agent}},
            {"set_agent_status": {"agent": self.trace.agent, "status": "busy"}},
        ])

    def claim(self, op, request, run, _):
        reply = self.swarm.submit([{"claim_task": {"agent": self.trace.agent, "task": self.task(run),
                                                   "lease_ms": LEASE_MS}}], request=request)
        self.acks.note(op, reply, request, lease=reply.outcome("claimed")["lease"])

    def complete(self, op, request, run, _):
        lease = self.acks.ops[f"r{run}.claim"]["lease"]
        result = {"steps": len(self.trace.steps), "state": self.trace.steps[-1].state if self.trace.steps else None}

        def commands():
            return [{"complete_task": {"task": self.task(run), "lease": lease, "result": result}},
                    {"set_agent_status": {"agent": self.trace.agent, "status": "idle"}}]

        try:
            self.submit(op, request, commands())
        except LeaseLost:
            # This process was away for longer than its lease: take the task again.
            reply = self.swarm.submit([{"claim_task": {"agent": self.trace.agent, "task": self.task(run),
                                                       "lease_ms": LEASE_MS}}])
            lease = reply.outcome("claimed")["lease"]
            self.acks.note(f"r{run}.claim", reply, None, lease=lease)
            self.submit(op, request, commands())

    def thought(self, op, request, run, index):
        content = {"run": run, "step": index, "thought": self.trace.steps[index].thought}
        self.message(op, request, {"agent": "log"}, "thought", content)

    def history(self, op, request, run, index):
        item = self.trace.history[index]
        content = {"run": run, "role": item.get("role"), "content": item.get("content")}
        self.message(op, request, {"topic": "history"}, "history", content)

    def message(self, op, request, to, topic, content):
        self.submit(op, request, [{"send_message": {"id": f"{self.trace.agent}.{op}", "from": self.trace.agent, "to": to,
                                                    "topic": topic, "content": content}}])

    def state(self, op, request, run, index):
        def remember(key, value):
            return {"set_memory": {"scope": self.trace.agent, "key": key, "value": value}}

        self.submit(op, request, [remember("state", self.trace.steps[index].state),
                                  remember("at", {"run": run, "step": index})])

    def count(self, op, request, *_):
        try:
            # Read, add one, write if nobody was faster. The answer to a repeat of an addition that had been made is
            # `request_mismatch`, because its body is another one by then.
            while True:
                entry = self.swarm.entry("runs")
                fields = {"scope": "shared", "key": "runs", "value": (entry["value"] if entry else 0) + 1,
                          "if_version": entry["version"] if entry else 0}
                try:
                    self.submit(op, request, [{"set_memory": fields}])
                    return
                except Conflict:
                    time.sleep(0.005)
        except RequestMismatch:
            self.acks.append({"op": op, "request": request, "first": 0, "seq": 0, "hash": "", "repeated": True})

    def effect(self, op, _, run, index):
        step, key = self.trace.steps[index], effect_key(self.trace, run, index)
        asked = {"trace": self.trace.agent, "step": index, "action": step.action}
        while True:
            try:
                with self.agent.effect(key, "at_most_once", task=self.task(run), request=asked) as effect:
                    self.acks.note(op + ".begin", effect.begun)
                    if effect.run:
                        self.die(op, "after-begin")
                        do_outside(self.folder, key)
                        self.die(op, "after-side-effect")
                        effect.result = runs.outcome(self.swarm, self.acks, self.trace, index)
                if effect.run:
                    self.die(op, "after-finish")
                self.acks.note(op, effect.finished or effect.begun)
                return
            except OutcomeUnknown:
                # An earlier process of this agent died between begin and finish. The reconciler looks outside.
                pause = 0.01
                while (self.swarm.effect_state(key) or {}).get("status") == "outcome_unknown":
                    time.sleep(pause)
                    pause = min(0.2, 2 * pause)

    def end(self, op, request, *_):
        self.submit(op, request, [{"set_agent_status": {"agent": self.trace.agent, "status": "terminated",
                                                        "reason": "its runs are over"}}])


def consume(options):
    """The agent `log`: takes messages and acknowledges them, ten at a time, until it has had all of them."""
    acks = Acks(options.folder, "log")
    swarm = Swarm(options.address, options.session, client="log-own", actor="log", patience=300,
                  state_file=os.path.join(options.folder, "acks", "log.ids"))
    agent = Agent(swarm, "log")
    number = max((int(entry["request"].rpartition(":")[2]) for entry in acks.entries), default=0) + 1
    had = sum(len(entry["messages"]) for entry in acks.entries if entry["op"] == "acknowledge")
    waiting = acks.entries[-1]["messages"] if acks.entries and acks.entries[-1]["op"] == "receive" else []
    pause = 0.01
    agent.start_heartbeat()
    while had < options.expect:
        request = f"log:{number}"
        if waiting:
            acks.note("acknowledge", agent.acknowledge(*waiting, request=request), request, messages=waiting)
            had, waiting, number = had + len(waiting), [], number + 1
            continue
        received = [message["id"] for message in agent.receive(10, request=request)]
        if not received:
            # Nothing was written, so the number is still free.
            time.sleep(pause)
            pause = min(0.1, 1.5 * pause)
            continue
        acks.note("receive", agent.last_reply, request, messages=received)
        waiting, number, pause = received, number + 1, 0.01
    request = f"log:{number}"
    if not any(entry["op"] == "end" for entry in acks.entries):
        acks.note("end", agent.status("terminated", "all messages were consumed", request=request), request)
    agent.close()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", required=True)
    parser.add_argument("--session", required=True)
    parser.add_argument("--folder", required=True, help="where the evidence goes")
    parser.add_argument("--agent", required=True)
    parser.add_argument("--loops", type=int, default=1)
    parser.add_argument("--expect", type=int, default=0, help="agent log: messages to wait for")
    parser.add_argument("--die-at", action="append", default=[], metavar="OP@POINT",
                        help="kill -9 oneself there, once; points: " + ", ".join(DIE_POINTS))
    runs.add_arguments(parser)
    return parser.parse_args()


def main():
    options = arguments()
    if options.agent == "log":
        return consume(options)
    found, _ = runs.find(options)
    for trace in found:
        if trace.agent == options.agent:
            return Player(options, trace).play(options.loops)
    raise SystemExit(f"no trace for agent {options.agent}")


if __name__ == "__main__":
    main()
