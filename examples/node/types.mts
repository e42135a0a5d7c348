// Not run: what the compiler must accept, and what it must refuse. tsc --noEmit --strict types.mts
import { Bridge, BridgeError } from "./dspy_bridge.mjs";

const bridge = new Bridge("bridge-cli");
const made = await bridge.call("create_program", { id: "qa", signature: "question -> answer", program_type: "predict" });
const done = await bridge.call("execute_program", { program_id: made.program_id, inputs: { question: "?" } });
export const outputs: Record<string, unknown> = done.outputs;
// @ts-expect-error: there is no such type of program
await bridge.call("create_program", { program_type: "magic" });
// @ts-expect-error: there is no such command
await bridge.call("nothing");
for await (const event of bridge.stream("execute_program", { stream: true })) console.log(event.data);
bridge.ready.catch((error: BridgeError) => error.code === "gone");
