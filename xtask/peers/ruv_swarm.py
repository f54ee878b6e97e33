"""The tools of ruv-swarm: the package itself and ours are asked the same, and must answer in the same shape.

Arguments: node, the package's program, our program, a folder for our store. A shape is the names of fields and the kinds of
their values; what is null on one side may be anything on the other.
"""

import json
import os
import subprocess
import sys

# What differs, on purpose: the package's simulated results and its own modules; and in the list of tools, words.
DIFFERS = {
    "swarm_status .global_metrics.wasm_modules", "swarm_status .runtime_info.wasm_modules",
    "swarm_status .runtime_info.tool_metrics", "memory_usage detailed .wasm_modules",
    "task_results detailed .agent_results", "task_results detailed .aggregated_performance",
    "task_results detailed .final_result",
}


class Server:
    """A server on stdio, one question at a time."""

    def __init__(self, command, folder):
        os.makedirs(folder, exist_ok=True)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder)
        self.number = 0
        self.ask("initialize", {
            "protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "peer", "version": "1"}})

    def ask(self, method, params):
        self.number += 1
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            # The package says other things on stdout as well.
            if line.startswith("{") and (answer := json.loads(line)).get("id") == self.number:
                return answer
        raise SystemExit(f"no answer to {method}")

    def call(self, name, **arguments):
        answer = self.ask("tools/call", {"name": name, "arguments": arguments})
        if "error" in answer:
            return {"error": answer["error"]["code"]}
        return json.loads(answer["result"]["content"][0]["text"])

    def end(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def shape(value, place=""):
    """Places and kinds, of a list those of its first entry."""
    if isinstance(value, dict):
        found = {place: "object"}
        for name, field in value.items():
            found.update(shape(field, f"{place}.{name}"))
        return found
    if isinstance(value, list):
        return {place: "list", **(shape(value[0], place + "[]") if value else {})}
    kinds = {bool: "bool", int: "number", float: "number", str: "text", type(None): "null"}
    return {place: kinds[type(value)]}


def day(server):
    """The same questions, in the same order."""
    answers = {"tools": {tool["name"]: tool["inputSchema"] for tool in server.ask("tools/list", {})["result"]["tools"]}}
    answers["agent_spawn without swarm"] = server.call("agent_spawn", type="coder")
    answers["swarm_init wrong"] = server.call("swarm_init", topology="cube")
    answers["swarm_init"] = server.call("swarm_init", topology="mesh", maxAgents=4)
    answers["task_orchestrate without agents"] = server.call("task_orchestrate", task="x")
    answers["agent_spawn"] = server.call("agent_spawn", type="coder", capabilities=["rust"])
    server.call("agent_spawn", type="researcher")
    task = server.call("task_orchestrate", task="write it", priority="high")
    answers["task_orchestrate"] = task
    for name, arguments in [
        ("agent_list", {}), ("task_status", {}), ("task_status", {"taskId": task["taskId"]}), ("swarm_status", {}),
        ("memory_usage", {}), ("memory_usage", {"detail": "detailed"}), ("memory_usage", {"detail": "by-agent"}),
        ("task_results", {"taskId": task["taskId"]}), ("task_results", {"taskId": task["taskId"], "format": "detailed"}),
    ]:
        words = [name, *(value for key, value in arguments.items() if key != "taskId")]
        words += ["of one"] if name == "task_status" and arguments else []
        answers[" ".join(words)] = server.call(name, **arguments)
    answers["no_such_tool"] = server.call("no_such_tool")
    return answers


def main():
    node, package, program, store = sys.argv[1:5]
    theirs = Server([node, package, "mcp", "start", "--protocol=stdio"], store + "-theirs")
    ours = Server([program, "mcp", "serve", "--ruv-swarm", "--session", "peer/ruv", "--store", store], store + "-ours")
    wanted, found = day(theirs), day(ours)
    theirs.end()
    ours.end()
    wrong = []
    for name, schema in found.pop("tools").items():
        if wanted["tools"][name] != schema:
            wrong.append(f"{name}: its schema is another")
    wanted.pop("tools")
    for name, answer in wanted.items():
        has, wants = shape(found[name]), shape(answer)
        for place in sorted(has.keys() | wants.keys()):
            kinds = {has.get(place), wants.get(place)}
            above = any(f"{name} {place}".startswith(known) for known in DIFFERS)
            # What is said here and not there does no harm: the package leaves out what it does not know.
            if place in wants and len(kinds) > 1 and "null" not in kinds and not above:
                wrong.append(f"{name} {place or '(all)'}: {wants.get(place)} there, {has.get(place)} here")
    print("\n".join(wrong) if wrong else "all well")
    sys.exit(bool(wrong))


main()
