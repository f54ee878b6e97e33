"""A scripted MCP server over stdio, for tests: well-behaved unless its tools are asked to misbehave.

Tools: echo; pay (appends a line to the file PEER_EFFECTS before it does anything else); look (read only); slow (waits for
the file PEER_GATE to appear); refuse (answers with an error); die (ends without an answer); twice, never, wrong (answer twice, never, with another's id);
noise (prints what is no JSON first); big (answers with `bytes` bytes); tell (logs `from` to `to` first); progress (tells of
`times` steps first); gather (answers when there are `of` of them, the last one first); ask (asks the client, and answers what
it did).

PEER_HINTS=none takes all hints away. PEER_LATE=1 reads nothing until the file PEER_GATE appears. A file `storm` beside
PEER_EFFECTS says how often, a thousand times a second, the list of tools is said to have changed from the start on.
"""

import json
import os
import sys
import threading
import time

GATHERED = []
ASKED = {}
TURN = threading.Lock()


def say(message):
    with TURN:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def storm(times):
    for _ in range(times):
        say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        time.sleep(0.001)


def wait_for_gate():
    while not os.path.exists(os.environ["PEER_GATE"]):
        # The test is over, and its folder gone: nobody opens the gate any more.
        if not os.path.isdir(os.path.dirname(os.environ["PEER_GATE"])):
            os._exit(0)
        time.sleep(0.002)


def tools():
    hints = {} if os.environ.get("PEER_HINTS") == "none" else {"look": {"readOnlyHint": True}}
    names = ["echo", "pay", "look", "slow", "refuse", "die", "twice", "never", "wrong", "noise", "big", "tell",
             "progress", "gather", "ask"]
    return [
        {"name": name, "inputSchema": {"type": "object"}, **({"annotations": hints[name]} if name in hints else {})}
        for name in names
    ]


def text(words):
    return {"content": [{"type": "text", "text": words}]}


def call(id, params):
    name, arguments = params["name"], params.get("arguments", {})
    if name in ("pay", "look", "slow", "refuse", "die", "gather", "ask") and "PEER_EFFECTS" in os.environ:
        with open(os.environ["PEER_EFFECTS"], "a") as effects:
            effects.write(f"{name} {json.dumps(arguments)} {os.getpid()}\n")
            effects.flush()
    if name == "slow" or arguments.get("slow"):
        wait_for_gate()
    if name == "refuse":
        return say({"jsonrpc": "2.0", "id": id, "error": {"code": -32050, "message": "no", "data": [1.0]}})
    if name == "die":
        os._exit(3)
    if name == "never":
        return
    if name == "noise":
        sys.stdout.write("Listening...\n{\"half\": \n\n[1]\n")
    if name == "tell":
        for n in range(arguments["from"], arguments["to"]):
            say({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": n}})
    if name == "progress":
        for n in range(arguments["times"]):
            progress = {"progressToken": params["_meta"]["progressToken"], "progress": n + 1}
            say({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})
    if name == "gather":
        GATHERED.append((id, arguments["n"]))
        if len(GATHERED) == arguments["of"]:
            for gathered, n in reversed(GATHERED):
                say({"jsonrpc": "2.0", "id": gathered, "result": text(str(n))})
            GATHERED.clear()
        return
    if name == "ask":
        ASKED["question"] = id
        question = {"message": "go on?", "requestedSchema": {"type": "object", "properties": {}}}
        say({"jsonrpc": "2.0", "id": "question", "method": "elicitation/create", "params": question})
        return
    answer = {"jsonrpc": "2.0", "id": id, "result": text("x" * arguments.get("bytes", 0) if name == "big" else name)}
    if name == "wrong":
        say({**answer, "id": 4242})
    say(answer)
    if name == "twice":
        say(answer)


def main():
    if os.environ.get("PEER_LATE"):
        wait_for_gate()
    sys.stderr.write(f"peer {os.getpid()} is here\n")
    changes = os.path.join(os.path.dirname(os.environ.get("PEER_EFFECTS", "")), "storm")
    if "PEER_EFFECTS" in os.environ and os.path.exists(changes):
        with open(changes) as times:
            threading.Thread(target=storm, args=[int(times.read())], daemon=True).start()
    for line in sys.stdin:
        message = json.loads(line)
        method, id = message.get("method"), message.get("id")
        if method is None and id in ASKED:
            say({"jsonrpc": "2.0", "id": ASKED.pop(id), "result": text(message["result"]["action"])})
        elif method == "initialize":
            say({"jsonrpc": "2.0", "id": id, "result": {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "peer", "version": "1"},
                "xUnknown": 1.0,
            }})
        elif method == "tools/list":
            say({"jsonrpc": "2.0", "id": id, "result": {"tools": tools()}})
        elif method == "tools/call":
            call(id, message["params"])
        elif method == "notifications/cancelled" and "PEER_CANCELLED" in os.environ:
            with open(os.environ["PEER_CANCELLED"], "a") as cancelled:
                cancelled.write(f"{message['params']['requestId']}\n")
        elif method == "ping" or method == "resources/subscribe" or method == "logging/setLevel":
            if method == "resources/subscribe" and "PEER_EFFECTS" in os.environ:
                with open(os.environ["PEER_EFFECTS"], "a") as effects:
                    effects.write(f"subscribe {message['params']['uri']} {os.getpid()}\n")
            say({"jsonrpc": "2.0", "id": id, "result": {}})
        elif method == "subscriptions/listen":
            pass  # Open for as long as the client is there.
        elif id is not None and method is not None:
            say({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": f"Method not found: {method}"}})


main()
