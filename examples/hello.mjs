// A host in Node: spawn the daemon, give a session its own model, run a program, leave.
//   node examples/hello.mjs [path to bridge-cli]
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const daemon = spawn(process.argv[2] ?? "bridge-cli", ["serve"], { stdio: ["pipe", "pipe", "inherit"] });
const waiting = new Map();
let lastId = 0;

createInterface({ input: daemon.stdout }).on("line", (line) => {
  const frame = JSON.parse(line);
  if (frame.event) return; // ready, log, ...
  const { resolve, reject } = waiting.get(frame.id);
  waiting.delete(frame.id);
  if (frame.success) resolve(frame.result);
  else reject(Object.assign(new Error(frame.error.message), frame.error));
});

function call(command, args = {}, session_id = "node") {
  const id = ++lastId;
  daemon.stdin.write(JSON.stringify({ id, command, args, session_id }) + "\n");
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

await call("configure_lm", { model: "scripted", answers: [{ answer: "Hello, Node." }] });
await call("create_program", { id: "qa", signature: "question -> answer" });
const { outputs } = await call("execute_program", { program_id: "qa", inputs: { question: "Who is there?" } });
console.log(outputs.answer);
const code = await call("execute_program", { program_id: "missing" }).catch((error) => error.code);
console.log(code);
daemon.stdin.end(); // the daemon, and everything it started, ends with its input
daemon.on("exit", (status) => console.log(`exit ${status}`));
