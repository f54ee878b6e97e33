"""Real servers behind the proxy: what they answer is what they answer without it, and they come back when they are killed.

Arguments: node, the folder of npm packages, our program, a folder for stores. `server-everything` over stdio, Streamable HTTP
and HTTP+SSE, `server-filesystem` and `server-memory` over stdio, each asked the same with and without the proxy.
"""

import json
import os
import signal
import sys
import time

from wire import Client, Upstream

INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "upstreams", "version": "1"}}


def opened(command, log):
    client = Client(command, log)
    done, said = client.ask("initialize", INITIALIZE)
    assert done, said
    client.say({"method": "notifications/initialized"})
    return client, said


def day(client, calls):
    """What it offers, and what each call says."""
    answers = [client.ask(method, {}) for method in ("tools/list", "resources/list", "prompts/list")]
    for name, arguments in calls:
        answers.append(client.ask("tools/call", {"name": name, "arguments": arguments}))
    return answers


def servers(marker):
    """The servers that were started with this word."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                words = line.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if marker in words and words[0].endswith("node"):
            found.append(int(pid))
    return found


def again(client, name, arguments, wants):
    """Until a call is carried out, whose server was killed: it says each time that nothing was, or that nobody knows."""
    until = time.monotonic() + 60
    while True:
        done, said = client.ask("tools/call", {"name": name, "arguments": arguments})
        if done:
            assert wants in said, said
            return
        assert time.monotonic() < until and "swarmkeep/outcome" in said, said
        time.sleep(0.2)


def stdio(name, node, script, words, calls, then, program, store, log):
    """A server that is the proxy's child. `then`: asked after it was killed, and what the answer has in it."""
    marker = f"--of={name}-{os.getpid()}"
    # Each has a place of its own, and the same name for it.
    command = [node, script, *words("direct"), marker]
    client, hello = opened(command, log)
    wanted = day(client, calls("direct"))
    client.end()
    front = [program, "mcp", "proxy", "--store", store, "--session", f"peer/{name}", "--", node, script, *words("proxied"), marker]
    client, said = opened(front, log)
    assert json.loads(said)["serverInfo"] == json.loads(hello)["serverInfo"], said
    found = day(client, calls("proxied"))
    same = [(done, said.replace("proxied", "direct")) for done, said in found]
    assert same == wanted, f"{name}: {[pair for pair in zip(same, wanted) if pair[0] != pair[1]][:1]}"
    pids = servers(marker)
    assert len(pids) == 1, pids
    os.kill(pids[0], signal.SIGKILL)
    tool, arguments, wants = then
    again(client, tool, arguments("proxied"), wants)
    assert servers(marker) not in ([], pids)
    client.end()


def http(name, transport, flag, path, node, packages, program, store, log):
    upstream = Upstream(node, packages, transport)
    url = f"http://127.0.0.1:{upstream.port}{path}"
    client, _ = opened([program, "mcp", "proxy", "--store", store, "--session", f"peer/{name}", flag, url], log)
    done, said = client.echo("before")
    assert done, said
    upstream.kill()
    done, said = client.echo("away")
    assert not done and "Nothing was carried out" in said, said
    upstream.start()
    again(client, "echo", {"message": "after"}, "after")
    client.end()
    upstream.kill()


def main():
    node, packages, program, scratch = sys.argv[1:5]
    store = f"{scratch}/upstreams"
    folders = {side: f"{scratch}/files-{side}" for side in ("direct", "proxied")}
    for folder in folders.values():
        os.makedirs(folder, exist_ok=True)
    modules = f"{packages}/node_modules/@modelcontextprotocol"
    with open(f"{scratch}/upstreams.log", "w", encoding="utf-8") as log:
        stdio(
            "everything", node, f"{modules}/server-everything/dist/index.js", lambda _: ["stdio"],
            lambda _: [("echo", {"message": "x" * 100_000}), ("get-sum", {"a": 2, "b": 3}), ("no-such-tool", {})],
            ("echo", lambda _: {"message": "again"}, "again"), program, store, log)
        stdio(
            "filesystem", node, f"{modules}/server-filesystem/dist/index.js", lambda side: [folders[side]],
            lambda side: [
                ("write_file", {"path": f"{folders[side]}/plan.txt", "content": "kept"}),
                ("read_text_file", {"path": f"{folders[side]}/plan.txt"}),
                ("read_text_file", {"path": "/etc/hostname"})],
            ("read_text_file", lambda side: {"path": f"{folders[side]}/plan.txt"}, "kept"), program, store, log)
        os.environ["MEMORY_FILE_PATH"] = f"{folders['direct']}/memory.jsonl"
        entity = {"name": "swarm", "entityType": "thing", "observations": ["it came back"]}
        stdio(
            "memory", node, f"{modules}/server-memory/dist/index.js", lambda _: [],
            lambda _: [
                ("delete_entities", {"entityNames": ["swarm"]}), ("create_entities", {"entities": [entity]}), ("read_graph", {})],
            ("read_graph", lambda _: {}, "it came back"), program, store, log)
        http("everything-http", "streamableHttp", "--http", "/mcp", node, packages, program, store, log)
        http("everything-sse", "sse", "--sse", "/sse", node, packages, program, store, log)
    print("all well")


main()
