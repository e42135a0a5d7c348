// A host in Node that lends its programs a model and two tools, both written in JavaScript, and has an
// optimizer improve a program until it is good enough, then cancels it and keeps the best.
//   node examples/agent.mjs [path to bridge-cli]
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const daemon = spawn(process.argv[2] ?? "bridge-cli", ["serve"], { stdio: ["pipe", "pipe", "ignore"] });
const waiting = new Map();
let lastId = 0;
let onProgress = () => {};

const send = (frame) => daemon.stdin.write(JSON.stringify(frame) + "\n");

createInterface({ input: daemon.stdout }).on("line", (line) => {
  const frame = JSON.parse(line);
  if (frame.call_id) return answer(frame); // a program asks its host
  if (frame.event === "progress") return onProgress(frame.data);
  if (frame.event) return;
  const { resolve, reject } = waiting.get(frame.id);
  waiting.delete(frame.id);
  if (frame.success) resolve(frame.result);
  else reject(Object.assign(new Error(frame.error.message), frame.error));
});

function call(command, args = {}) {
  const id = ++lastId;
  send({ id, command, args, session_id: "agent" });
  const reply = new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  return Object.assign(reply, { id });
}

function answer({ call_id, call, name, args }) {
  try {
    const result = call === "lm" ? model(args.messages) : tools[name](args);
    send({ call_id, success: true, result });
  } catch (error) {
    send({ call_id, success: false, error: { message: error.message } });
  }
}

const tools = {
  population: ({ city }) => ({ Paris: 2_100_000, Rome: 2_750_000 })[city] ?? "unknown",
  add: ({ a, b }) => a + b,
  exact: ({ example, prediction }) => ({
    score: example.answer === prediction.answer ? 1 : 0,
    feedback: "Answer in capitals.",
  }),
};

// A "model": it looks at the prompt and writes what DSPy's chat adapter reads.
const written = (fields) =>
  Object.entries(fields).map(([name, value]) => `[[ ## ${name} ## ]]\n${value}\n\n`).join("") + "[[ ## completed ## ]]";
const step = (tool, args) =>
  written({ next_thought: `use ${tool}`, next_tool_name: tool, next_tool_args: JSON.stringify(args) });

function model(messages) {
  const text = messages.map((message) => message.content).join("\n");
  const last = messages.at(-1).content;
  if (text.includes("new_instruction")) {
    const instruction = "Answer in capitals.";
    return last.includes("[[ ## new_instruction") ? written({ new_instruction: instruction }) : JSON.stringify({ new_instruction: instruction });
  }
  if (text.includes("next_tool_name")) {
    if (!last.includes("observation_0")) return step("population", { city: "Paris" });
    if (!last.includes("observation_1")) return step("population", { city: "Rome" });
    if (!last.includes("observation_2")) return step("add", { a: 2_100_000, b: 2_750_000 });
    return step("finish", {});
  }
  if (text.includes("trajectory")) return written({ reasoning: "added them up", answer: /4850000/.exec(last)?.[0] });
  const word = /## question ## \]\]\n(\w+)/.exec(last)[1];
  return written({ answer: text.includes("Answer in capitals.") ? word.toUpperCase() : word });
}

await call("configure_lm", { model: "host/mine" });
const number = { type: "integer" };
await call("create_program", {
  id: "agent",
  program_type: "react",
  signature: "question -> answer: int",
  tools: [
    { name: "population", description: "Of a city.", args: { type: "object", properties: { city: { type: "string" } } } },
    { name: "add", description: "Adds.", args: { type: "object", properties: { a: number, b: number } } },
  ],
});
const { outputs } = await call("execute_program", {
  program_id: "agent",
  inputs: { question: "How many people live in Paris and Rome together?" },
});
console.log(`the agent answers ${outputs.answer}`);

await call("create_program", { id: "echo", signature: "question -> answer" });
const compiling = call("compile_program", {
  program_id: "echo",
  compiled_id: "better",
  optimizer: "gepa",
  metric: { host: "exact" },
  trainset: ["apple", "pear", "plum"].map((word) => ({ question: word, answer: word.toUpperCase() })),
  options: { max_metric_calls: 100_000, skip_perfect_score: false },
});
const scores = [];
await new Promise((resolve) => {
  onProgress = ({ best }) => {
    if (best !== null && best !== scores.at(-1)) scores.push(best);
    if (best === 100) resolve();
  };
});
await call("cancel", { request_id: compiling.id });
console.log(`while compiling, the best score went ${scores.join(" -> ")}; then: ${await compiling.catch((error) => error.code)}`);
const best = await call("execute_program", { program_id: "better", inputs: { question: "cherry" } });
console.log(`the best so far was kept, and answers ${best.outputs.answer}`);
daemon.stdin.end();
