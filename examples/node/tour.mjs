// What every client in these examples can do, against a real daemon: node tour.mjs [path to bridge-cli]
import { Bridge } from "./dspy_bridge.mjs";

const bridge = new Bridge(process.argv[2] ?? "bridge-cli");
const failure = (reply) => reply.then(() => "nothing failed", (error) => error.code);

console.log(`ready: protocol ${(await bridge.ready).protocol}`);
await bridge.call("configure_lm", { model: "scripted", answers: [{ answer: "Paris" }] });
const { program_id } = await bridge.call("create_program", { id: "qa", signature: "question -> answer" });
console.log(`created: ${program_id}`);
const ask = { program_id: "qa", inputs: { question: "Capital of France?" } };
console.log(`answer: ${(await bridge.call("execute_program", ask)).outputs.answer}`);

let streamed = "";
for await (const { event, data } of bridge.stream("execute_program", { ...ask, stream: ["answer"] })) {
  if (event === "token") streamed += data.text;
}
console.log(`streamed: ${streamed.trim()}`);

bridge.tool("add", ({ a, b }) => a + b);
const number = { type: "integer" };
await bridge.call("create_program", {
  id: "agent",
  program_type: "react",
  signature: "question -> answer",
  tools: [{ name: "add", description: "Adds.", args: { type: "object", properties: { a: number, b: number } } }],
});
const steps = [
  { next_thought: "add them", next_tool_name: "add", next_tool_args: { a: 2, b: 3 } },
  { next_thought: "done", next_tool_name: "finish", next_tool_args: {} },
  { reasoning: "added", answer: "five" },
];
const { outputs } = await bridge.call("execute_program", { program_id: "agent", inputs: { question: "2 + 3?" }, lm: { model: "scripted", answers: steps } });
console.log(`tool: ${outputs.trajectory.observation_0}`);

console.log(`error: ${await failure(bridge.call("execute_program", { program_id: "none" }))}`);
const slow = { ...ask, lm: { model: "scripted", delay_ms: 60_000 } };
const aborting = new AbortController();
const cancelled = bridge.call("execute_program", slow, { signal: aborting.signal });
aborting.abort();
console.log(`cancel: ${await failure(cancelled)}`);
console.log(`timeout: ${await failure(bridge.call("execute_program", slow, { timeoutMs: 200 }))}`);
console.log(`closed: ${await bridge.close()}`);

const dying = new Bridge(process.argv[2] ?? "bridge-cli");
await dying.call("create_program", { id: "qa", signature: "question -> answer" });
const lost = failure(dying.call("execute_program", slow));
process.kill(dying.pid, "SIGKILL");
console.log(`killed: ${await lost}`);
