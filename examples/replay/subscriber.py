#!/usr/bin/env python3
"""Follows the feed and writes down every record it sees. May be killed at any instant: it goes on after the token of the
last line that it wrote."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evidence import Lines  # noqa: E402
from swarmkeep_agent import Swarm  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", required=True)
    parser.add_argument("--session", required=True)
    parser.add_argument("--folder", required=True)
    options = parser.parse_args()
    seen = Lines(os.path.join(options.folder, "feed.jsonl"), sync=False)
    swarm = Swarm(options.address, options.session, client="subscriber", patience=300)
    for item in swarm.feed(from_=seen.entries[-1]["token"] if seen.entries else "start"):
        seen.append({"seq": item.seq, "hash": item.hash, "token": item.token})


if __name__ == "__main__":
    main()
