"""A client of the Python SDK: the session tools over stdio and HTTP, and a daemon that is killed in the middle.

Arguments: the program, a folder for the store, the daemon's URL. The SDK holds every structured answer to the tool's schema.
"""

import asyncio
import importlib.metadata
import json
import os
import signal
import sys

from mcp import StdioServerParameters
from mcp.client.stdio import stdio_client

MAJOR = int(importlib.metadata.version("mcp").split(".")[0])


def ok(result):
    """The structured answer of a tool that did it."""
    failed = getattr(result, "is_error", None) if MAJOR > 1 else result.isError
    assert not failed, result
    return result.structured_content if MAJOR > 1 else result.structuredContent


async def day(client, session):
    """What a client does: every answer is checked against its schema by the SDK."""
    tools = {tool.name for tool in (await client.list_tools()).tools}
    assert {"session_open", "task_claim", "effect_begin", "report"} <= tools, tools
    number = 0

    async def call(name, /, **arguments):
        nonlocal number
        number += 1
        if "keyless" in arguments:
            del arguments["keyless"]
        else:
            arguments["request_id"] = f"{session}-{number}"
        if name not in ("session_health", "recovery_waiting", "recovery_history", "session_list"):
            arguments.setdefault("session", session)
        return ok(await client.call_tool(name, arguments))

    await call("session_open")
    await call("agent_spawn", id="coder", capabilities=["rust"])
    await call("agent_spawn", id="tester")
    await call("task_create", id="t1", title="split the parser", payload={"n": 1})
    await call("task_create", id="t2", title="write it up")
    claimed = await call("task_claim", agent="coder")
    lease = claimed["outcomes"][0]["claimed"]["lease"]
    await call("task_heartbeat", task="t1", lease=lease, keyless=True)
    await call("agent_heartbeat", agent="coder", keyless=True)
    await call("message_send", to={"agent": "tester"}, content={"x": 1}, **{"from": "coder"})
    mail = await call("message_receive", agent="tester")
    await call("message_acknowledge", message=mail["messages"][0]["id"], agent="tester")
    await call("memory_set", key="plan", value=[1, None, "x"])
    assert (await call("memory_get", key="plan", keyless=True))["value"] == [1, None, "x"]
    await call("effect_begin", effect="pay", agent="coder", instance="p1", **{"class": "at_most_once"})
    await call("effect_finish", effect="pay", attempt=1, outcome={"ok": True, "value": 17})
    await call("effect_begin", effect="mail", agent="coder", instance="p1", **{"class": "ask"})
    await call("agent_return", agent="coder", instance="p2")
    await call("effect_resolve", effect="mail", by="user:anna")
    await call("task_finish", task="t1", how="complete", lease=lease, result={"lines": 7})
    await call("agent_set_status", agent="tester", status="terminated")
    await call("agent_update", agent="coder", name="Ada")
    head = (await call("session_checkpoint", keyless=True))["head"]["seq"]
    await call("memory_delete", key="plan")
    await call("session_rewind", to=head)
    await call("session_fork", name=f"{session}-fork", at=2)
    await call("session_pause", reason="lunch")
    await call("session_resume")
    for name, arguments in [
        ("session_list", {}), ("session_status", {}), ("session_health", {}), ("session_diff", {"from": 1}),
        ("session_history", {}), ("session_verify", {}), ("agent_list", {}), ("agent_status", {"agent": "coder"}),
        ("task_list", {}), ("task_status", {"task": "t1"}), ("message_list", {}), ("memory_search", {}),
        ("effect_list", {}), ("recovery_status", {}), ("recovery_waiting", {}), ("recovery_history", {}), ("report", {}),
    ]:
        await call(name, keyless=True, **arguments)
    resource = await client.read_resource(f"swarmkeep://peer/{session.split('/')[1]}/state")
    assert json.loads(resource.contents[0].text)["info"]["name"] == session
    assert (await client.list_prompts()).prompts[0].name == "resume_session"
    told = await client.get_prompt("resume_session", {"session": session, "agent": "coder"})
    assert "write it up" in told.messages[0].content.text
    refused = await client.call_tool("session_status", {"session": "peer/none"})
    assert (refused.is_error if MAJOR > 1 else refused.isError) and refused.content[0].text.startswith("not_found")
    return call


async def killed(call, store, session):
    """The daemon dies; the client notices nothing."""
    with open(os.path.join(store, "lock"), encoding="utf-8") as lock:
        pid = json.load(lock)["pid"]
    os.kill(pid, signal.SIGKILL)
    await call("task_create", id="after", title="after the kill")
    tasks = await call("task_list", keyless=True)
    assert [task["id"] for task in tasks["tasks"]].count("after") == 1, tasks


async def main():
    program, store, url = sys.argv[1:4]
    server = StdioServerParameters(command=program, args=["mcp", "serve", "--store", store], env=dict(os.environ))
    if MAJOR == 1:
        from mcp import ClientSession
        from mcp.client.streamable_http import streamablehttp_client

        async with stdio_client(server) as (read, write), ClientSession(read, write) as client:
            print("stdio:", (await client.initialize()).protocolVersion)
            session = "peer/python-1-stdio"
            await killed(await day(client, session), store, session)
        async with streamablehttp_client(url + "/mcp") as (read, write, _), ClientSession(read, write) as client:
            print("HTTP:", (await client.initialize()).protocolVersion)
            await day(client, "peer/python-1-http")
    else:
        from mcp import Client

        for mode in ("legacy", "auto"):
            async with Client(stdio_client(server), mode=mode) as client:
                print("stdio,", mode)
                session = f"peer/python-2-stdio-{mode}"
                await killed(await day(client, session), store, session)
            async with Client(url + "/mcp", mode=mode) as client:
                print("HTTP,", mode)
                await day(client, f"peer/python-2-http-{mode}")
    print("all well")


asyncio.run(main())
