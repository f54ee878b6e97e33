"""Agent runs to replay: real ones from a folder of `*.traj` files, or generated ones of the same shape.

A trace has steps (thought, action, observation, state; the state is a string in most, an object in some) or a history
only (messages with role and content).
"""

import glob
import json
import os
import random
import re
from pathlib import Path

BLOB_OVER = 32 * 1024
"""Observations longer than this many bytes become blobs."""


class Step:
    """One turn of a run."""

    def __init__(self, thought, action, observation, state):
        self.thought, self.action, self.observation, self.state = thought, action, observation, state


class Trace:
    """One agent's run: an id for the agent, its steps, or its history where there are no steps."""

    def __init__(self, agent, steps, history):
        self.agent, self.steps, self.history = agent, steps, history


def load(folder):
    """All traces of a folder, by name. Raises ValueError, with the file's name, for one that is not a trace."""
    traces, names = [], {}
    for path in sorted(glob.glob(os.path.join(folder, "*.traj"))):
        with open(path, encoding="utf-8") as file:
            try:
                document = json.load(file)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        steps = [Step(s.get("thought") or "", s.get("action") or "", s.get("observation") or "", s.get("state"))
                 for s in document.get("trajectory") or []]
        history = [] if steps else document.get("history") or []
        if not steps and not history:
            raise ValueError(f"{path}: neither a trajectory nor a history")
        traces.append(Trace(_agent_name(Path(path).stem, names), steps, history))
    return traces


def _agent_name(stem, names):
    """A short readable id: the last part of the file's name, numbered where two are alike."""
    short = re.sub(r"[^A-Za-z0-9-]+", "-", stem.split("__")[-1])[-24:].strip("-").lower() or "agent"
    names[short] = names.get(short, 0) + 1
    return short if names[short] == 1 else f"{short}-{names[short]}"


def generate(seed, agents=11):
    """Runs of the same shape as recorded ones: most with steps, the last with a history only; states as strings and as
    objects; an observation in twenty is longer than BLOB_OVER; text with quotes, newlines and letters of many scripts."""
    rng = random.Random(f"traces {seed}")
    traces = []
    for number in range(agents - 1):
        steps = []
        for index in range(rng.randint(4, 18)):
            state = {"open_file": rng.choice(["n/a", "/src/parser.py"]), "working_dir": f"/repo/{number}", "step": index}
            length = rng.randint(BLOB_OVER, 2 * BLOB_OVER) if rng.random() < 0.05 else rng.randint(0, 9000)
            steps.append(Step(_text(rng, rng.randint(20, 900)), _text(rng, rng.randint(5, 400)), _text(rng, length),
                              state if number % 5 == 4 else json.dumps(state) + "\n"))
        traces.append(Trace(f"generated-{number}", steps, []))
    history = [{"role": rng.choice(["system", "user", "assistant", "tool"]), "content": _text(rng, 300)} for _ in range(12)]
    traces.append(Trace("generated-history", [], history))
    return traces


def _text(rng, length):
    words = ["open", "the", "file", "\n", '"quoted"', "\\n", "größer", "測試", "🦀", "def f(x):", "\t", "return x", "{}", "</a>"]
    parts, size = [], 0
    while size < length:
        parts.append(rng.choice(words))
        size += len(parts[-1].encode()) + 1
    return " ".join(parts)


def outcome(swarm, acks, trace, index):
    """What carrying out a step's action gives: its observation, as a blob where it is long. Worker and reconciler see
    the same outside world, so both use this."""
    step = trace.steps[index]
    data = step.observation.encode("utf-8", "surrogatepass")
    if len(data) <= BLOB_OVER:
        return {"observation": step.observation}
    blob, reply = swarm.put_blob(data, label=f"observation of step {index}")
    acks.note(f"{trace.agent}.s{index}.blob", reply)
    return {"blob": blob, "bytes": len(data)}


def add_arguments(parser):
    """The options by which every process of a replay finds the same input."""
    parser.add_argument("--traces", help="folder with *.traj files (default: ../shared/traces beside the repository; "
                                         "without it runs are generated)")
    parser.add_argument("--seed", type=int, default=1)


def find(options):
    """The traces that `options` name, and a sentence that says which they are."""
    folder = options.traces
    if not folder:
        beside = Path(__file__).resolve().parents[3] / "shared" / "traces"
        folder = str(beside) if list(beside.glob("*.traj")) else None
    if folder:
        found = load(folder)
        if not found:
            raise SystemExit(f"no *.traj files in {folder}")
        return found, f"{len(found)} recorded runs from {folder}"
    found = generate(options.seed)
    return found, f"{len(found)} generated runs (seed {options.seed}): no folder with recorded ones was found"
