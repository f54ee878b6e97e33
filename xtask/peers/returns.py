"""An upstream is killed and started again behind a proxy: what its client sees.

Arguments: node, the folder of npm packages, the program `mcp-proxy` of PyPI (or `-`), our program, a folder for stores; then
the names of the proxies that are tried, all of them if there are none. The upstream is `server-everything` over Streamable
HTTP; the client speaks JSON-RPC over the proxy's pipes, and calls `echo`. Says a table, and fails if ours does not come back.
"""

import json
import os
import sys
import time

from wire import Client, Upstream

# How long a proxy has to come back, in seconds.
RETURN = 30


def words(said):
    """What a person reads of an answer."""
    try:
        return json.loads(said)["content"][0]["text"]
    except (ValueError, KeyError, IndexError):
        return said


def trial(command, upstream, log):
    """One proxy: before, while the server is away, after it came back."""
    client = Client(command, log)
    row = {}
    done, said = client.ask("initialize", {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "returns", "version": "1"}})
    if done:
        client.say({"method": "notifications/initialized"})
        done, said = client.echo("before")
    row["before"] = "answered" if done else said
    upstream.kill()
    began = time.monotonic()
    done, said = client.echo("away")
    row["away"], row["away_s"] = ("answered" if done else words(said)), round(time.monotonic() - began, 1)
    upstream.start()
    began = time.monotonic()
    while True:
        done, said = client.echo("after", patience=RETURN)
        took = time.monotonic() - began
        if done or took > RETURN or "process ended" in said:
            break
        time.sleep(0.1)
    row["after"], row["after_ms"] = ("answered", round(took * 1000)) if done else (words(said), None)
    client.end()
    return row


def main():
    node, packages, mcp_proxy, program, scratch, *names = sys.argv[1:]
    os.makedirs(scratch, exist_ok=True)
    modules = f"{packages}/node_modules"
    fronts = {
        "mcp-remote": lambda url: [node, f"{modules}/mcp-remote/dist/proxy.js", url, "--allow-http", "--transport", "http-only"],
        "supergateway": lambda url: [node, f"{modules}/supergateway/dist/index.js", "--streamableHttp", url],
        "mcp-proxy": lambda url: [mcp_proxy, "--transport", "streamablehttp", url],
        "swarmkeep": lambda url: [
            program, "mcp", "proxy", "--store", f"{scratch}/returns", "--session", "peer/returns", "--http", url],
    }
    rows = {}
    for name in names or fronts:
        if name == "mcp-proxy" and mcp_proxy == "-":
            continue
        upstream = Upstream(node, packages)
        with open(f"{scratch}/{name}.log", "w", encoding="utf-8") as log:
            rows[name] = trial(fronts[name](upstream.url), upstream, log)
        upstream.kill()
        after = rows[name]["after"] if rows[name]["after_ms"] is None else f"answered after {rows[name]['after_ms']} ms"
        print(f"| {name} | {rows[name]['away'][:120]} ({rows[name]['away_s']} s) | {after[:120]} |", flush=True)
    ours = rows.get("swarmkeep", {})
    good = ours.get("after") == "answered" and "Nothing was carried out" in ours["away"]
    print("all well" if good else "ours did not come back")
    sys.exit(not good)


main()
