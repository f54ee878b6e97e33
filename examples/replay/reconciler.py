#!/usr/bin/env python3
"""Settles doubts: follows the feed, and for every effect of unknown outcome looks outside whether it was done.

Independent of the workers: it knows the session, the traces and the file outside, nothing else. May be killed at any
instant: it reads the feed from the start again and passes over what is settled.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import traces as runs  # noqa: E402
from evidence import Acks, Lines, outside_counts  # noqa: E402
from swarmkeep_agent import Swarm, WrongState  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", required=True)
    parser.add_argument("--session", required=True)
    parser.add_argument("--folder", required=True)
    runs.add_arguments(parser)
    options = parser.parse_args()
    by_agent = {trace.agent: trace for trace in runs.find(options)[0]}
    swarm = Swarm(options.address, options.session, client="reconciler", patience=300,
                  state_file=os.path.join(options.folder, "acks", "reconciler.ids"))
    acks = Acks(options.folder, "reconciler")
    found = Lines(os.path.join(options.folder, "doubts.jsonl"))
    for item in swarm.feed(from_="start"):
        if item.type != "effect_outcome_unknown":
            continue
        key = item.data["effect"]
        effect = swarm.effect_state(key)
        if effect is None or effect["status"] != "outcome_unknown":
            continue
        count = outside_counts(options.folder).get(key, 0)
        found.append({"effect": key, "seq": item.seq, "count": count})
        asked = effect["request"]
        value = runs.outcome(swarm, acks, by_agent[asked["trace"]], asked["step"]) if count else None
        try:
            acks.note(f"{key}@{item.seq}", swarm.resolve(key, by="reconciler:outside.txt", done=count > 0, value=value))
        except WrongState:
            # Settled by an earlier process of this reconciler that was killed before it could note it.
            pass


if __name__ == "__main__":
    main()
