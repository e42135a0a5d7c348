// Made by `python -m tests.docs.typescript_types` from the daemon's own schemas; a test compares.

export type AdapterConfig = {
  /** How prompts are laid out. */
  name: "chat" | "json" | "xml" | "baml" | "two_step";
  /** Have the model call tools by its own means. */
  use_native_function_calling?: boolean | null;
  /** Whether it may call several at once. */
  parallel_tool_calls?: boolean | null;
  /** chat and xml: ask again in JSON if the answer cannot be read (default true). */
  use_json_adapter_fallback?: boolean | null;
  /** two_step: the named model that reads the answer (default: the same). */
  extraction_lm?: string | null;
};

export type DataFile = {
  /** From the session's working directory, or a folder of --allow-data. */
  file: string;
  /** Leave out so many rows. */
  first?: number;
  /** Take at most so many. */
  count?: number | null;
};

export type HealthCheck = {
  check: string;
  status: "ok" | "degraded" | "failing";
  detail: string;
  [more: string]: unknown;
};

export type LMConfig = {
  /** provider/name as dspy.LM takes it; or scripted, local (a small real one), host or host/name. */
  model: string;
  /** The provider of a model that is named without one. */
  provider?: string | null;
  /** The provider's key. Never logged, echoed or stored on disk. */
  api_key?: string | null;
  /** Name of the environment variable that holds the key. */
  api_key_env?: string | null;
  /** URL of the endpoint, where it is not the provider's own. */
  api_base?: string | null;
  /** Sampling temperature. */
  temperature?: number | null;
  /** Most tokens to generate per answer. */
  max_tokens?: number | null;
  /** Which API of the provider. */
  model_type?: "chat" | "text" | "responses" | null;
  /** Answer equal prompts from the session's memory. */
  cache?: boolean | null;
  /** Repetitions after a passing failure. */
  num_retries?: number | null;
  /** Seconds the endpoint may take to answer. */
  timeout?: number | null;
  /** Which client DSPy uses. */
  engine?: "auto" | "lm15" | "litellm" | null;
  /** scripted only: outputs in order (the last repeats), or by a substring of the prompt. */
  answers?: (Record<string, unknown>)[] | Record<string, Record<string, unknown>> | null;
  /** scripted only: how long each answer takes. */
  delay_ms?: number | null;
  [more: string]: unknown;
};

export type McpServer = {
  /** The program and its arguments. */
  command?: string[] | null;
  /** Variables of the session's environment the command gets too. */
  env_from?: string[];
  /** The command's working directory, if not the session's. */
  cwd?: string | null;
  /** Where it serves MCP over HTTP. */
  url?: string | null;
  /** Headers by name, each from an environment variable of the session. */
  headers_from?: Record<string, string>;
  /** Only these of its tools (default: all). */
  tools?: string[] | null;
  /** Before each tool's name. */
  prefix?: string;
  /** How long a tool may take to answer. */
  timeout_ms?: number;
};

export type ProgramInfo = {
  id: string;
  program_type: string;
  signature: string;
  created_at: string;
  execution_count: number;
  last_executed: string | null;
  [more: string]: unknown;
};

export type SessionDocument = {
  format: "dspy-bridge/session";
  format_version: 1;
  session_id: string;
  created_at: string;
  exported_at: string;
  /** What start_session was told. */
  charter: Record<string, unknown>;
  /** Its state: model, settings, programs, variables. */
  parts: Record<string, unknown>;
};

export type SessionInfo = {
  session_id: string;
  /** cold: hibernating, or not used yet. */
  state: "cold" | "waking" | "live" | "ending";
  /** Each with pid, requests, age_s, memory_mb (private memory), python (its version) and gil (whether its threads take turns). */
  workers: (Record<string, unknown>)[];
  /** How many requests it may run at once: interpreters times threads. */
  capacity: number;
  /** Requests each interpreter runs at once. */
  threads: number;
  requests: number;
  queued: number;
  in_flight: number;
  recycles: number;
  recoveries: number;
  hibernations: number;
  programs: string[];
  durable: boolean;
  /** Grows with every change of the session. */
  version: number;
  /** Literal secrets it was restored without, such as lm.api_key. */
  missing: string[];
  created_at: string;
  [more: string]: unknown;
};

export type SettingsArgs = {
  /** Same as at the top level of the request. */
  session_id?: string | null;
  /** How prompts are laid out. */
  adapter?: AdapterConfig | "chat" | "json" | "xml" | "baml" | "two_step" | null;
  /** Report token usage with each execution (default true). */
  track_usage?: boolean | null;
  /** Threads of DSPy's own parallel helpers. */
  num_threads?: number | null;
  /** Errors after which DSPy's parallel helpers give up. */
  max_errors?: number | null;
  /** Model calls kept for inspection. */
  max_history_size?: number | null;
  /** Predictor calls kept in DSPy's trace. */
  max_trace_size?: number | null;
  /** Keep no history of model calls. */
  disable_history?: boolean | null;
  /** Have DSPy log tracebacks of failed items. */
  provide_traceback?: boolean | null;
  /** Have DSPy warn of inputs of another type. */
  warn_on_type_mismatch?: boolean | null;
  /** Let sync programs call async tools. */
  allow_tool_async_sync_conversion?: boolean | null;
  /** Keep answers of the model in the session's memory (default true), or shared on disk too. */
  cache?: boolean | "shared" | null;
  /** Seed of the interpreter's random streams. */
  seed?: number | null;
};

export type ToolSpec = {
  /** As the model is to call it. */
  name: string;
  /** What it does, for the model. */
  description?: string;
  /** JSON Schema of its arguments (an object's). */
  args?: Record<string, unknown>;
  /** It lives in the host. */
  host?: true;
  /** How long the host may take to answer. */
  timeout_ms?: number;
};

export interface Commands {
  /** Negotiate the protocol version; what the ready frame says. */
  hello: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Protocol versions the host speaks; absent: any. */
      protocol?: number[] | null;
      /** Name and version of the host, for the daemon's log. */
      host?: string | null;
      /** What the host can do, such as host_calls. */
      capabilities?: string[];
    };
    result: {
      /** The protocol version in use. */
      protocol: number;
      protocols: number[];
      server: string;
      server_version: string;
      dspy_version: string;
      python_version: string;
      capabilities: string[];
      framing: string;
      /** Bytes; a longer frame is refused with frame_too_large. */
      max_frame: number;
      /** Differs each time a daemon starts. */
      boot_id: string;
      pid: number;
      [more: string]: unknown;
    };
  };
  /** Whether the daemon, or with deep a session, answers. */
  ping: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Go through the session's interpreter instead of answering here. */
      deep?: boolean;
    };
    result: {
      status: "ok";
      uptime_s: number;
      /** The same; it, and what follows, is what hosts of the early DSPex bridge read. */
      uptime: number;
      /** Seconds since 1970. */
      timestamp: number;
      dspy_available: boolean;
      gemini_available: boolean;
      [more: string]: unknown;
    };
  };
  /** Every command with its JSON Schemas. */
  list_commands: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      commands: (Record<string, unknown>)[];
      [more: string]: unknown;
    };
  };
  /** Start a session with its own settings. */
  start_session: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Environment variables, beside the daemon's own. */
      env?: Record<string, string>;
      /** Working directory (default: the daemon's). */
      cwd?: string | null;
      /** As the arguments of configure_lm. */
      lm?: LMConfig | null;
      /** As the arguments of configure. */
      settings?: SettingsArgs | null;
      /** Interpreters its requests are spread over (default 1). */
      workers?: number | null;
      /** Requests each interpreter runs at once, in threads (default 1). */
      threads?: number | null;
      /** Python of the operator's, package.module:Class, whose tools it has. */
      adapter?: string | null;
      /** Keyword arguments of that class. */
      adapter_args?: Record<string, unknown> | null;
      /** Watch the adapter for unsafe overlaps; strict: fail the call that shows one. */
      thread_safety_check?: boolean | "strict" | null;
      /** Kept in the daemon's --state-dir (default: if there is one). */
      durable?: boolean | null;
      /** Fresh interpreter after so many seconds. */
      ttl_s?: number | null;
      /** Fresh interpreter after so many requests. */
      max_requests?: number | null;
      /** Fresh interpreter once its private memory has grown by so many MiB. */
      max_growth_mb?: number | null;
      /** Hibernate after so long without a request. */
      idle_timeout_s?: number | null;
      /** End the session after so long without a request. */
      session_ttl_s?: number | null;
      /** Most private memory of an interpreter, in MiB. */
      max_memory_mb?: number | null;
      /** Most calls to language models at once. */
      max_lm_calls?: number | null;
      /** Most processor time of one request. */
      max_cpu_s?: number | null;
      /** Most descriptors an interpreter may have open. */
      max_open_files?: number | null;
      /** Most processes, the interpreter itself included. */
      max_processes?: number | null;
      /** Most in the session's scratch folder, in MiB. */
      max_scratch_mb?: number | null;
      /** Most requests waiting in the session. */
      max_queue?: number | null;
    };
    result: {
      session_id: string;
      status: "started";
      worker_pid: number;
      [more: string]: unknown;
    };
  };
  /** End a session and everything of it. */
  end_session: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      session_id: string;
      status: "ended" | "not_found";
      [more: string]: unknown;
    };
  };
  /** Alias of end_session. */
  cleanup_session: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      session_id: string;
      status: "ended" | "not_found";
      [more: string]: unknown;
    };
  };
  /** Every session. */
  list_sessions: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      sessions: SessionInfo[];
      [more: string]: unknown;
    };
  };
  /** One session. */
  session_info: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      session_id: string;
      /** cold: hibernating, or not used yet. */
      state: "cold" | "waking" | "live" | "ending";
      /** Each with pid, requests, age_s, memory_mb (private memory), python (its version) and gil (whether its threads take turns). */
      workers: (Record<string, unknown>)[];
      /** How many requests it may run at once: interpreters times threads. */
      capacity: number;
      /** Requests each interpreter runs at once. */
      threads: number;
      requests: number;
      queued: number;
      in_flight: number;
      recycles: number;
      recoveries: number;
      hibernations: number;
      programs: string[];
      durable: boolean;
      /** Grows with every change of the session. */
      version: number;
      /** Literal secrets it was restored without, such as lm.api_key. */
      missing: string[];
      created_at: string;
      [more: string]: unknown;
    };
  };
  /** A fresh interpreter, at the same state, now. */
  recycle_session: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      session_id: string;
      status: "recycled";
      worker_pid: number | null;
      [more: string]: unknown;
    };
  };
  /** The session as one JSON document. */
  export_session: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      /** For import_session, here or elsewhere; JSON to be kept as it is. */
      document: Record<string, unknown>;
      [more: string]: unknown;
    };
  };
  /** A session from such a document. */
  import_session: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** What export_session gave. */
      document: SessionDocument;
      /** What to do if the session exists. */
      on_exists?: "error" | "replace";
    };
    result: {
      session_id: string;
      status: "imported";
      programs: string[];
      /** Literal secrets it had and has no more, such as lm.api_key. */
      missing: string[];
      [more: string]: unknown;
    };
  };
  /** A second session, at the state of this. */
  branch_session: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** The new session's id (made up if absent). */
      branch_id?: string | null;
    };
    result: {
      session_id: string;
      status: "branched";
      branched_from: string;
      programs: string[];
      [more: string]: unknown;
    };
  };
  /** Read a session variable. */
  get_state: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** The variable's name. */
      key: string;
    };
    result: {
      key: string;
      value: unknown;
      found: boolean;
      [more: string]: unknown;
    };
  };
  /** Set a session variable. */
  set_state: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** The variable's name. */
      key: string;
      /** Any JSON value. */
      value: unknown;
    };
    result: {
      key: string;
      /** Grows with every change of the session. */
      version: number;
      [more: string]: unknown;
    };
  };
  /** Change a session variable atomically. */
  update_state: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** The variable's name. */
      key: string;
      /** What to do, atomically. */
      op: "incr" | "append" | "compare_and_set" | "delete";
      /** What to add (incr: default 1), append or set. */
      value?: unknown;
      /** compare_and_set only: sets if the variable reads this (null: not set). */
      expected?: unknown;
    };
    result: {
      key: string;
      /** The variable afterwards. */
      value: unknown;
      version: number;
      /** False where compare_and_set found another value, or delete nothing. */
      changed: boolean;
      [more: string]: unknown;
    };
  };
  /** End an open request with cancelled. */
  cancel: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** The id of an open request of this connection. */
      request_id: number | string;
    };
    result: {
      request_id: number | string;
      status: "cancelling" | "not_found";
      [more: string]: unknown;
    };
  };
  /** Counts, the pool, the template, memory. */
  get_stats: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: Record<string, unknown>;
  };
  /** What happened lately, as Perfetto and chrome://tracing read it. */
  get_trace: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Only so many of the latest records (absent: all that are kept). */
      limit?: number | null;
    };
    result: {
      /** In Chrome's trace event format; times in microseconds. */
      traceEvents: (Record<string, unknown>)[];
      displayTimeUnit: "ms";
      /** Of the daemon: server_version, boot_id and more. */
      otherData: Record<string, unknown>;
      [more: string]: unknown;
    };
  };
  /** Whether the daemon can do its work, check by check. */
  health: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      /** The worst of the checks. */
      status: "ok" | "degraded" | "failing";
      checks: HealthCheck[];
      [more: string]: unknown;
    };
  };
  /** Every option of the daemon, its value and where it is from; and those of a session. */
  describe_options: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      /** Each with name, value, from (default, a file, environment, flag), default, variable, description, change (what another value takes: reload or restart), waiting (whether another one waits for a restart). */
      daemon: (Record<string, unknown>)[];
      /** JSON Schema of each argument of start_session. */
      session: Record<string, unknown>;
      [more: string]: unknown;
    };
  };
  /** Drain within a bound and exit. */
  shutdown: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      status: "shutting_down";
      [more: string]: unknown;
    };
  };
  /** Set the session's language model. */
  configure_lm: {
    args: {
      /** provider/name as dspy.LM takes it; or scripted, local (a small real one), host or host/name. */
      model: string;
      /** The provider of a model that is named without one. */
      provider?: string | null;
      /** The provider's key. Never logged, echoed or stored on disk. */
      api_key?: string | null;
      /** Name of the environment variable that holds the key. */
      api_key_env?: string | null;
      /** URL of the endpoint, where it is not the provider's own. */
      api_base?: string | null;
      /** Sampling temperature. */
      temperature?: number | null;
      /** Most tokens to generate per answer. */
      max_tokens?: number | null;
      /** Which API of the provider. */
      model_type?: "chat" | "text" | "responses" | null;
      /** Answer equal prompts from the session's memory. */
      cache?: boolean | null;
      /** Repetitions after a passing failure. */
      num_retries?: number | null;
      /** Seconds the endpoint may take to answer. */
      timeout?: number | null;
      /** Which client DSPy uses. */
      engine?: "auto" | "lm15" | "litellm" | null;
      /** scripted only: outputs in order (the last repeats), or by a substring of the prompt. */
      answers?: (Record<string, unknown>)[] | Record<string, Record<string, unknown>> | null;
      /** scripted only: how long each answer takes. */
      delay_ms?: number | null;
      /** Keep it under this name, for lm of programs and requests. */
      name?: string | null;
      /** Same as at the top level of the request. */
      session_id?: string | null;
      [more: string]: unknown;
    };
    result: {
      status: "configured";
      model: string;
      /** Where it was given one. */
      provider?: string | null;
      /** Where it was given one. */
      temperature?: number | null;
      /** Where it was given one. */
      name?: string | null;
      [more: string]: unknown;
    };
  };
  /** Set an embedder of the session, for programs that retrieve. */
  configure_embedder: {
    args: {
      /** provider/name as dspy.Embedder takes it; or scripted, or host or host/name (a tool of the host). */
      model: string;
      /** The provider's key. Never logged, echoed or stored on disk. */
      api_key?: string | null;
      /** Name of the environment variable that holds the key. */
      api_key_env?: string | null;
      /** URL of the endpoint, where it is not the provider's own. */
      api_base?: string | null;
      /** Most texts of one call (default 200). */
      batch_size?: number | null;
      /** Keep vectors in the session's memory (default true). */
      caching?: boolean | null;
      /** Repetitions after a passing failure. */
      num_retries?: number | null;
      /** Seconds the endpoint may take to answer. */
      timeout?: number | null;
      /** How programs refer to it. */
      name?: string;
      /** Same as at the top level of the request. */
      session_id?: string | null;
      [more: string]: unknown;
    };
    result: {
      status: "configured";
      model: string;
      name: string;
      [more: string]: unknown;
    };
  };
  /** Change the session's DSPy settings: all that are given, or none. */
  configure: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** How prompts are laid out. */
      adapter?: AdapterConfig | "chat" | "json" | "xml" | "baml" | "two_step" | null;
      /** Report token usage with each execution (default true). */
      track_usage?: boolean | null;
      /** Threads of DSPy's own parallel helpers. */
      num_threads?: number | null;
      /** Errors after which DSPy's parallel helpers give up. */
      max_errors?: number | null;
      /** Model calls kept for inspection. */
      max_history_size?: number | null;
      /** Predictor calls kept in DSPy's trace. */
      max_trace_size?: number | null;
      /** Keep no history of model calls. */
      disable_history?: boolean | null;
      /** Have DSPy log tracebacks of failed items. */
      provide_traceback?: boolean | null;
      /** Have DSPy warn of inputs of another type. */
      warn_on_type_mismatch?: boolean | null;
      /** Let sync programs call async tools. */
      allow_tool_async_sync_conversion?: boolean | null;
      /** Keep answers of the model in the session's memory (default true), or shared on disk too. */
      cache?: boolean | "shared" | null;
      /** Seed of the interpreter's random streams. */
      seed?: number | null;
      /** Change something only if config_version is this (otherwise version_conflict). */
      if_version?: number | null;
    };
    result: {
      status: "configured";
      /** Every setting by its present value. */
      settings: Record<string, unknown>;
      /** Grows whenever a setting changes; 0: as the session was started. */
      config_version: number;
      [more: string]: unknown;
    };
  };
  /** Name types for signatures to use. */
  define_types: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** By name: a type in words or as JSON Schema, null to forget it. Later ones may use earlier ones. */
      types: Record<string, unknown>;
    };
    result: {
      status: "defined";
      /** Every name the session knows now. */
      types: string[];
      [more: string]: unknown;
    };
  };
  /** Make a program. */
  create_program: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** The program's id in its session. */
      id?: string | null;
      /** Alias of id. */
      program_id?: string | null;
      /** A DSPy signature string, or name, instructions, inputs, outputs. */
      signature?: string | Record<string, unknown> | null;
      /** Which DSPy module. */
      program_type?: "predict" | "chain_of_thought" | "react" | "react_v2" | "multi_chain_comparison" | "best_of_n" | "refine" | "ensemble" | "pipeline" | "program_of_thought" | "code_act" | "rlm" | "flex" | "retrieve" | "knn_few_shot" | "custom";
      /** Options of the module; see docs/dspy.md. */
      options?: Record<string, unknown>;
      /** What an agent may call. */
      tools?: ToolSpec[];
      /** MCP servers whose tools it may call too. */
      mcp?: McpServer[];
      /** A model of the program's own. */
      lm?: LMConfig | string | null;
      /** How its prompts are laid out, if not as the session's. */
      adapter?: AdapterConfig | "chat" | "json" | "xml" | "baml" | "two_step" | null;
      /** Worked examples for its prompts. */
      demos?: (Record<string, unknown>)[];
      /** What to do if the id is taken. */
      on_exists?: "error" | "replace" | "keep";
      /** Taken from hosts of the early DSPex bridge; not needed. */
      modules?: unknown[] | null;
      /** Likewise. */
      use_dynamic_signature?: boolean | null;
    };
    result: {
      program_id: string;
      status: "created" | "replaced" | "kept";
      program_type: string;
      signature: string;
      [more: string]: unknown;
    };
  };
  /** Run a program. */
  execute_program: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program. */
      program_id?: string | null;
      /** Alias of program_id. */
      id?: string | null;
      /** One value per input field of the signature. */
      inputs?: Record<string, unknown>;
      /** Model options and DSPy settings for this execution alone, whatever the program is made of. */
      config?: Record<string, unknown>;
      /** Alias of config. */
      options?: Record<string, unknown>;
      /** A model for this execution alone. */
      lm?: LMConfig | string | null;
      /** Send token and status events first: of every output field, or of those named. */
      stream?: boolean | string[];
      /** Coerce and ignore as DSPy does, instead of refusing odd inputs. */
      lenient?: boolean;
    };
    result: {
      program_id: string;
      outputs: Record<string, unknown>;
      /** Per model; empty where the answer came from the cache. */
      usage: Record<string, unknown>;
      execution_time_ms: number;
      /** The same in seconds. */
      execution_time: number;
      [more: string]: unknown;
    };
  };
  /** create_program, on a model of Google. */
  create_gemini_program: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** The program's id in its session. */
      id?: string | null;
      /** Alias of id. */
      program_id?: string | null;
      /** A DSPy signature string, or name, instructions, inputs, outputs. */
      signature?: string | Record<string, unknown> | null;
      /** Which DSPy module. */
      program_type?: "predict" | "chain_of_thought" | "react" | "react_v2" | "multi_chain_comparison" | "best_of_n" | "refine" | "ensemble" | "pipeline" | "program_of_thought" | "code_act" | "rlm" | "flex" | "retrieve" | "knn_few_shot" | "custom";
      /** Options of the module; see docs/dspy.md. */
      options?: Record<string, unknown>;
      /** What an agent may call. */
      tools?: ToolSpec[];
      /** MCP servers whose tools it may call too. */
      mcp?: McpServer[];
      /** A model of the program's own. */
      lm?: LMConfig | string | null;
      /** How its prompts are laid out, if not as the session's. */
      adapter?: AdapterConfig | "chat" | "json" | "xml" | "baml" | "two_step" | null;
      /** Worked examples for its prompts. */
      demos?: (Record<string, unknown>)[];
      /** What to do if the id is taken. */
      on_exists?: "error" | "replace" | "keep";
      /** Taken from hosts of the early DSPex bridge; not needed. */
      modules?: unknown[] | null;
      /** Likewise. */
      use_dynamic_signature?: boolean | null;
      /** Of Google, with the key of GEMINI_API_KEY; or any, in full. */
      model?: string;
    };
    result: {
      program_id: string;
      status: "created" | "replaced" | "kept";
      program_type: string;
      signature: string;
      type: "gemini";
      model_name: string;
      [more: string]: unknown;
    };
  };
  /** execute_program, with the model's own words. */
  execute_gemini_program: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program. */
      program_id?: string | null;
      /** Alias of program_id. */
      id?: string | null;
      /** One value per input field of the signature. */
      inputs?: Record<string, unknown>;
      /** Model options and DSPy settings for this execution alone, whatever the program is made of. */
      config?: Record<string, unknown>;
      /** Alias of config. */
      options?: Record<string, unknown>;
      /** A model for this execution alone. */
      lm?: LMConfig | string | null;
      /** Send token and status events first: of every output field, or of those named. */
      stream?: boolean | string[];
      /** Coerce and ignore as DSPy does, instead of refusing odd inputs. */
      lenient?: boolean;
    };
    result: {
      program_id: string;
      outputs: Record<string, unknown>;
      /** Per model; empty where the answer came from the cache. */
      usage: Record<string, unknown>;
      execution_time_ms: number;
      /** The same in seconds. */
      execution_time: number;
      /** What the model answered; null where it was not asked. */
      raw_response: string | null;
      [more: string]: unknown;
    };
  };
  /** Run a program on many inputs. */
  execute_batch: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program. */
      program_id: string;
      /** One object of inputs per execution, or a file of them. */
      inputs: (Record<string, unknown>)[] | DataFile;
      /** Write the results to this file too (.csv, .json, .jsonl, .parquet). */
      save_as?: string | null;
      /** How many run at once. */
      max_concurrency?: number;
      /** Begin no further one once one has failed. */
      stop_on_error?: boolean;
      /** Indices to leave out, such as those done before. */
      skip?: number[];
      /** As for execute_program. */
      config?: Record<string, unknown>;
      /** As for execute_program. */
      lm?: LMConfig | string | null;
      /** As for execute_program. */
      lenient?: boolean;
    };
    result: {
      program_id: string;
      /** In order, each with index and success, and outputs or error (or skipped). */
      results: (Record<string, unknown>)[];
      succeeded: number;
      failed: number;
      skipped: number;
      [more: string]: unknown;
    };
  };
  /** Score a program on examples. */
  evaluate_program: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program. */
      program_id: string;
      /** Inputs and what is expected, one object each, or a file of them. */
      examples: (Record<string, unknown>)[] | DataFile;
      /** Write the results to this file too (.csv, .json, .jsonl, .parquet). */
      save_as?: string | null;
      /** exact_match, f1, contains, or an object: name, host, program or python. */
      metric: unknown;
      /** How many run at once. */
      max_concurrency?: number;
      /** What an example counts whose execution failed. */
      failure_score?: number;
      /** As for execute_program. */
      config?: Record<string, unknown>;
      /** As for execute_program. */
      lm?: LMConfig | string | null;
    };
    result: {
      program_id: string;
      /** Mean of the scores, in percent. */
      score: number;
      /** In order, each with index, success, score, outputs or error. */
      results: (Record<string, unknown>)[];
      succeeded: number;
      failed: number;
      skipped: number;
      [more: string]: unknown;
    };
  };
  /** Optimize a program; keeps the best. */
  compile_program: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program; it stays as it is. */
      program_id: string;
      /** The compiled program's id (default: its id and -compiled). */
      compiled_id?: string | null;
      /** labeled_few_shot, bootstrap_few_shot, random_search, copro, mipro_v2, gepa ... */
      optimizer: string;
      /** Examples to learn from, or a file of them. */
      trainset: (Record<string, unknown>)[] | DataFile;
      /** Examples to choose by (default: the trainset). */
      valset?: (Record<string, unknown>)[] | DataFile | null;
      /** As for evaluate_program. */
      metric?: unknown;
      /** Options of the optimizer. */
      options?: Record<string, unknown>;
      /** Options of its compile method. */
      compile_options?: Record<string, unknown>;
      /** The model that writes prompts (default: the program's). */
      prompt_lm?: LMConfig | string | null;
      /** As for execute_program. */
      config?: Record<string, unknown>;
      /** As for execute_program. */
      lm?: LMConfig | string | null;
      /** What to do if the id is taken. */
      on_exists?: "error" | "replace";
    };
    result: {
      /** The compiled program. */
      program_id: string;
      status: "compiled";
      compiled_from: string;
      optimizer: string;
      /** The best score seen on the whole validation set, in percent. */
      score: number | null;
      evaluations: number;
      lm_calls: number;
      elapsed_s: number;
      [more: string]: unknown;
    };
  };
  /** A program's state in DSPy's own JSON. */
  save_program: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program. */
      program_id: string;
      /** Write it to this file too, from the session's working directory. */
      path?: string | null;
    };
    result: {
      program_id: string;
      status: "saved";
      /** As dspy.Module.save writes it. */
      state: Record<string, unknown>;
      path: string | null;
      [more: string]: unknown;
    };
  };
  /** Give a program a saved state. */
  load_program: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program; it must have the shape of the saved one. */
      program_id: string;
      /** What save_program gave, or a file of dspy.Module.save. */
      state?: Record<string, unknown> | null;
      /** Or a file of that, from the session's working directory. */
      path?: string | null;
    };
    result: {
      program_id: string;
      status: "loaded";
      [more: string]: unknown;
    };
  };
  /** What the model would be sent. */
  preview_prompt: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program. */
      program_id: string;
      /** As for execute_program. */
      inputs?: Record<string, unknown>;
      /** Which of its predictors (default: the first). */
      predictor?: string | null;
    };
    result: {
      program_id: string;
      predictor: string;
      adapter: string;
      messages: (Record<string, unknown>)[];
      [more: string]: unknown;
    };
  };
  /** The session's latest model calls. */
  inspect_history: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** How many of the latest calls. */
      n?: number;
    };
    result: {
      /** Oldest first; of this interpreter, which may be younger. */
      calls: (Record<string, unknown>)[];
      [more: string]: unknown;
    };
  };
  /** Tokens used, by program and model. */
  get_usage: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      /** By program: executions and usage by model. */
      programs: Record<string, Record<string, unknown>>;
      /** Usage by model. */
      total: Record<string, unknown>;
      [more: string]: unknown;
    };
  };
  /** The tools of the session's adapter. */
  list_tools: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      /** Each with name, description, args (JSON Schema) and supports_streaming. */
      tools: (Record<string, unknown>)[];
      /** The checker's report, where it looks. */
      thread_safety: Record<string, unknown> | null;
      [more: string]: unknown;
    };
  };
  /** Run a tool of the session's adapter. */
  call_tool: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which tool of the session's adapter. */
      name: string;
      /** Its arguments, as list_tools describes them. */
      args?: Record<string, unknown>;
    };
    result: {
      tool: string;
      /** What it returned. */
      result: unknown;
      /** How many item events came first, if it streams. */
      items?: number;
      [more: string]: unknown;
    };
  };
  /** Every program of the session. */
  list_programs: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      programs: ProgramInfo[];
      total_count: number;
      [more: string]: unknown;
    };
  };
  /** One program, with its fields. */
  get_program_info: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program. */
      program_id?: string | null;
      /** Alias of program_id. */
      id?: string | null;
    };
    result: {
      id: string;
      program_type: string;
      signature: string;
      created_at: string;
      execution_count: number;
      last_executed: string | null;
      [more: string]: unknown;
    };
  };
  /** Remove a program; it must exist. */
  delete_program: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program. */
      program_id?: string | null;
      /** Alias of program_id. */
      id?: string | null;
    };
    result: {
      program_id: string;
      status: "deleted";
      [more: string]: unknown;
    };
  };
  /** Remove a program if it exists. */
  clear_program: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Which program. */
      program_id?: string | null;
      /** Alias of program_id. */
      id?: string | null;
    };
    result: {
      program_id: string;
      status: "cleared" | "not_found";
      [more: string]: unknown;
    };
  };
  /** The session as new, settings included. */
  reset_state: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      status: "reset";
      cleared_programs: number;
      /** The same. */
      programs_cleared: number;
      [more: string]: unknown;
    };
  };
  /** For verify-isolation: plant a canary in everything global, or read it. Spoils the session. */
  probe_isolation: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
      /** Plant this everywhere; absent: only read. */
      canary?: string | null;
      /** Modules whose probes are left out, such as litellm. */
      skip?: string[];
    };
    result: {
      /** What each piece of global state reads, by its name. */
      reads: Record<string, string>;
      [more: string]: unknown;
    };
  };
  /** Collect garbage and report memory. */
  cleanup: {
    args: {
      /** Same as at the top level of the request. */
      session_id?: string | null;
    };
    result: {
      status: "cleaned";
      collected: number;
      memory_mb: number;
      /** They are kept; reset_state removes them. */
      programs_removed: 0;
      [more: string]: unknown;
    };
  };
}

export type Command = keyof Commands;

export type ErrorCode = "parse_error" | "invalid_request" | "frame_too_large" | "duplicate_id" | "unknown_command" | "invalid_args" | "session_not_found" | "session_exists" | "session_limit" | "program_not_found" | "program_exists" | "lm_not_configured" | "lm_error" | "output_parse_error" | "execution_error" | "unserializable_result" | "tool_error" | "host_call_failed" | "timeout" | "cancelled" | "worker_crashed" | "worker_start_failed" | "memory_limit" | "resource_limit" | "overloaded" | "shutting_down" | "version_conflict" | "unsupported" | "internal" | "gone";

export interface BridgeEvent {
  id: number;
  event: "token" | "status" | "progress" | "item" | "log";
  seq: number;
  data: any;
}

export interface CallOptions {
  session?: string;
  timeoutMs?: number;
  onEvent?: (event: BridgeEvent) => void;
  signal?: AbortSignal;
}

export class BridgeError extends Error {
  code: ErrorCode;
  retryable: boolean;
  details: Record<string, unknown>;
}

export class Bridge {
  constructor(command?: string, args?: string[], options?: Record<string, unknown>);
  readonly ready: Promise<Commands["hello"]["result"]>;
  readonly exited: Promise<number | string>;
  readonly pid: number | undefined;
  tool(name: string, work: (args: any) => unknown): void;
  model(name: string, work: (request: any) => unknown): void;
  call<C extends Command>(
    command: C,
    args?: Commands[C]["args"],
    options?: CallOptions,
  ): Promise<Commands[C]["result"]> & { id: number };
  cancel(id: number): Promise<Commands["cancel"]["result"]>;
  stream<C extends Command>(
    command: C,
    args?: Commands[C]["args"],
    options?: CallOptions,
  ): AsyncGenerator<BridgeEvent, Commands[C]["result"]>;
  close(): Promise<number | string>;
}
