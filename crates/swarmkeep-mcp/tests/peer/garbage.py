"""An MCP server over stdio that says, in the place of its answers, what the file PEER_SAYS has for a method, for tests.

The file is JSON, an object read again before every answer: method -> a text, said as it stands; or a number: a line of so many
bytes. Anything else, and everything where the file is missing, is answered as it should be. PEER_PID: a file for its process id.
"""

import json
import os
import sys

RESULTS = {
    "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "peer", "version": "1"}},
    "tools/list": {"tools": []},
}


def main():
    with open(os.environ["PEER_PID"], "w") as pid:
        pid.write(str(os.getpid()))
    for line in sys.stdin:
        message = json.loads(line)
        method, id = message.get("method"), message.get("id")
        if id is None:
            continue
        try:
            with open(os.environ["PEER_SAYS"]) as says:
                said = json.load(says).get(method)
        except FileNotFoundError:
            said = None
        if said is None:
            said = json.dumps({"jsonrpc": "2.0", "id": id, "result": RESULTS.get(method, {})})
        elif isinstance(said, int):
            said = "x" * said
        sys.stdout.write(said.replace("{id}", str(id)) + "\n")
        sys.stdout.flush()


main()
