"""The Python SDK over HTTP, in the era of sessions: the proxy that it talks to is killed between two calls and under one.

Arguments: our program, a folder for the store, the scripted server. The client is never told to begin anew: its session's name
goes on, what was on its way is taken up by its own `Last-Event-ID`, and nothing is done twice.
"""

import asyncio
import os
import subprocess
import sys

import mcp

PATIENCE = 60


class Front:
    """The proxy, at one address over all its lives."""

    def __init__(self, program, store, server):
        self.outside = {name: os.path.join(store, name.lower()) for name in ("PEER_EFFECTS", "PEER_GATE")}
        self.command = [program, "mcp", "proxy", "--store", os.path.join(store, "store"), "--", "python3", server]
        self.address = "127.0.0.1:0"
        self.start()

    def start(self):
        command = [*self.command[:3], "--listen", self.address, *self.command[3:]]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **self.outside})
        self.url = self.process.stdout.readline().strip()
        self.address = self.url.removeprefix("http://").removesuffix("/mcp")
        assert self.address and self.address != self.url, self.url

    def again(self):
        self.process.kill()
        self.process.wait()
        self.start()

    def effects(self, tool):
        with open(self.outside["PEER_EFFECTS"], encoding="utf-8") as effects:
            return sum(line.startswith(tool) for line in effects)

    def open_gate(self):
        open(self.outside["PEER_GATE"], "w", encoding="utf-8").close()

    def end(self):
        self.process.terminate()
        self.process.wait()


async def called(client, tool):
    return await asyncio.wait_for(client.call_tool(tool, {}), PATIENCE)


async def day(front):
    async with mcp.Client(front.url, mode="legacy") as client:
        assert (await called(client, "pay")).content[0].text == "pay"
        front.again()
        assert (await called(client, "pay")).content[0].text == "pay", "the session goes on"
        assert front.effects("pay") == 2

        slow = asyncio.create_task(called(client, "slow"))
        while not os.path.exists(front.outside["PEER_EFFECTS"]) or front.effects("slow") == 0:
            await asyncio.sleep(0.05)
        # The client has to hear the name of its stream before it can come back by it.
        await asyncio.sleep(1)
        front.again()
        front.open_gate()
        answer = await slow
        text = answer.content[0].text
        assert answer.is_error and "nobody knows" in text.lower() and "under way" not in text, answer
        assert front.effects("slow") == 1, "nothing is done twice"
        assert (await called(client, "echo")).content[0].text == "echo"


def main():
    program, folder, server = sys.argv[1:]
    os.makedirs(folder)
    front = Front(program, folder, server)
    try:
        asyncio.run(day(front))
    finally:
        front.end()
    print("a client over HTTP outlives the kills of its proxy; what was on its way is answered once")
    print("all well")


main()
