// A client of the TypeScript SDK: the session tools over stdio and HTTP, and a daemon that is killed in the middle.
// Arguments: the folder that has the SDK in `node_modules`, the program, a folder for the store, the daemon's URL. The SDK
// holds every structured answer to the tool's schema.

import assert from "node:assert";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, program, store, url] = process.argv.slice(2);
const require = createRequire(path.join(folder, "here.js"));
const load = (name) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/sdk/${name}`)).href);
const { Client } = await load("client/index.js");
const { StdioClientTransport } = await load("client/stdio.js");
const { StreamableHTTPClientTransport } = await load("client/streamableHttp.js");

async function day(transport, session, between) {
  const client = new Client({ name: "peer", version: "1" });
  await client.connect(transport);
  const { tools } = await client.listTools();
  assert(tools.length > 40, "all tools are listed");
  let number = 0;
  const call = async (name, fields = {}, writes = true) => {
    const request = writes ? { request_id: `${session}-${++number}` } : {};
    const result = await client.callTool({ name, arguments: { session, ...request, ...fields } });
    assert(!result.isError, JSON.stringify(result));
    return result.structuredContent;
  };
  await call("session_open");
  await call("agent_spawn", { id: "coder" });
  await call("task_create", { id: "t1", title: "split the parser", payload: { n: 1 } });
  const claimed = await call("task_claim", { agent: "coder" });
  await between?.();
  await call("memory_set", { key: "plan", value: { step: 1 } });
  assert.deepEqual((await call("memory_get", { key: "plan" }, false)).value, { step: 1 });
  await call("effect_begin", { effect: "pay", class: "at_most_once", agent: "coder", instance: "p1" });
  await call("effect_finish", { effect: "pay", attempt: 1, outcome: { ok: true } });
  const { lease } = claimed.outcomes[0].claimed;
  await call("task_finish", { task: "t1", how: "complete", lease, result: 7 });
  for (const [name, fields] of [
    ["session_status"], ["session_history"], ["session_diff", { from: 1 }], ["agent_list"], ["task_list"],
    ["message_list"], ["memory_search"], ["effect_list"], ["session_verify"], ["recovery_status"], ["report"],
  ]) {
    await call(name, fields, false);
  }
  const state = await client.readResource({ uri: `swarmkeep://${session}/state` });
  assert.equal(JSON.parse(state.contents[0].text).tasks[0].status, "completed");
  const told = await client.getPrompt({ name: "resume_session", arguments: { session } });
  assert(told.messages[0].content.text.includes("coder"));
  const refused = await client.callTool({ name: "session_status", arguments: { session: "peer/none" } });
  assert(refused.isError && refused.content[0].text.startsWith("not_found"));
  await client.close();
}

const kill = async () => process.kill(JSON.parse(fs.readFileSync(path.join(store, "lock"), "utf8")).pid, "SIGKILL");
const stdio = { command: program, args: ["mcp", "serve", "--store", store], env: process.env };
await day(new StdioClientTransport(stdio), "peer/typescript-stdio", kill);
await day(new StreamableHTTPClientTransport(new URL(`${url}/mcp`)), "peer/typescript-http");
console.log("all well");
