// A client of dspy-bridge for Node 18 or newer; no dependencies. Copy this file (and dspy_bridge.d.mts).
import { spawn } from "node:child_process";
import { StringDecoder } from "node:string_decoder";

/** An error reply of the daemon: `code` is one of its closed list; or `gone` where the daemon has ended. */
export class BridgeError extends Error {
  constructor({ code, message, retryable = false, details = {} }) {
    super(message);
    Object.assign(this, { name: "BridgeError", code, retryable, details });
  }
}

/** One daemon, private to this process: it ends with it. */
export class Bridge {
  #daemon;
  #open = new Map();
  #hosted = { tool: new Map(), lm: new Map() };
  #lastId = 0;
  #gone = null;

  constructor(command = "bridge-cli", args = ["serve"], options = {}) {
    this.#daemon = spawn(command, args, { ...options, stdio: ["pipe", "pipe", "inherit"] });
    this.ready = new Promise((resolve, reject) => {
      this.#open.set("ready", { resolve, reject });
    });
    this.ready.catch(() => {}); // whoever awaits it hears of it
    this.exited = new Promise((resolve) => {
      this.#daemon.once("error", (error) => this.#lose(error.message, resolve));
      this.#daemon.once("close", (code, signal) => this.#lose(`it ended with ${signal ?? code}`, () => resolve(code ?? signal)));
    });
    this.#daemon.stdin.on("error", () => {}); // the daemon's end tells more
    // Always read: a daemon nobody listens to stops streaming. And decode across chunks: a character may be cut.
    const decoder = new StringDecoder("utf8");
    let rest = "";
    this.#daemon.stdout.on("data", (chunk) => {
      const lines = (rest + decoder.write(chunk)).split("\n");
      rest = lines.pop();
      for (const line of lines) this.#take(JSON.parse(line));
    });
  }

  get pid() {
    return this.#daemon.pid;
  }

  /** A tool (or a metric) of this host: `work(args)` may be async; what it throws is an observation. */
  tool(name, work) {
    this.#hosted.tool.set(name, work);
  }

  /** A model of this host, for `{model: "host/name"}`: `work(request)` gives a text or a chat completion. */
  model(name, work) {
    this.#hosted.lm.set(name, work);
  }

  /** The result of one command, as a promise that also has the request's `id`. Rejects with BridgeError.
   *  `signal`, an AbortSignal, cancels it at the daemon. */
  call(command, args = {}, { session, timeoutMs, onEvent, signal } = {}) {
    const id = ++this.#lastId;
    const reply = new Promise((resolve, reject) => {
      if (this.#gone) reject(this.#gone);
      else this.#open.set(id, { resolve, reject, onEvent });
    });
    this.#send({ id, command, args, session_id: session, timeout_ms: timeoutMs });
    if (signal) {
      const cancel = () => this.cancel(id);
      if (signal.aborted) cancel();
      signal.addEventListener("abort", cancel, { once: true });
      const forget = () => signal.removeEventListener("abort", cancel);
      reply.then(forget, forget);
    }
    return Object.assign(reply, { id });
  }

  cancel(id) {
    return this.call("cancel", { request_id: id });
  }

  /** The events of one command, one by one; the generator returns its result. Leaving the loop cancels it. */
  async *stream(command, args = {}, options = {}) {
    const events = [];
    let wake = () => {};
    let ended = false;
    const reply = this.call(command, args, { ...options, onEvent: (event) => { events.push(event); wake(); } });
    const end = () => { ended = true; wake(); };
    reply.then(end, end);
    try {
      for (;;) {
        while (events.length) yield events.shift();
        if (ended) return await reply;
        await new Promise((resolve) => { wake = resolve; });
      }
    } finally {
      if (!ended) {
        this.cancel(reply.id).catch(() => {});
        reply.catch(() => {});
      }
    }
  }

  /** End the daemon in order: what is open may finish. Resolves to its exit code. */
  close() {
    this.#daemon.stdin.end();
    return this.exited;
  }

  #send(frame) {
    this.#daemon.stdin.write(JSON.stringify(frame) + "\n");
  }

  #take(frame) {
    if (frame.call_id !== undefined) return void this.#answer(frame);
    if (frame.event === "ready") return this.#settle("ready", (open) => open.resolve(frame));
    if (frame.event !== undefined) return this.#open.get(frame.id)?.onEvent?.(frame);
    this.#settle(frame.id, (open) => (frame.success ? open.resolve(frame.result) : open.reject(new BridgeError(frame.error))));
  }

  #settle(id, how) {
    const open = this.#open.get(id);
    this.#open.delete(id);
    if (open) how(open);
  }

  async #answer({ call_id, call, name, args }) {
    try {
      const work = this.#hosted[call].get(name);
      if (!work) throw new Error(`this host has no ${call} ${name}`);
      this.#send({ call_id, success: true, result: (await work(args)) ?? null });
    } catch (error) {
      this.#send({ call_id, success: false, error: { message: String(error?.message ?? error) } });
    }
  }

  #lose(why, then) {
    this.#gone ??= new BridgeError({ code: "gone", message: `the daemon has gone: ${why}` });
    for (const id of [...this.#open.keys()]) this.#settle(id, (open) => open.reject(this.#gone));
    then();
  }
}
