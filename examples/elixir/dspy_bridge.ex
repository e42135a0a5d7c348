defmodule DspyBridge do
  @moduledoc """
  A client of dspy-bridge: a GenServer that owns the port, one private daemon. Copy this file.

      {:ok, bridge} = DspyBridge.start_link(command: "bridge-cli")
      {:ok, %{"program_id" => "qa"}} =
        DspyBridge.call(bridge, "create_program", %{id: "qa", signature: "question -> answer"})

  Put it under a supervisor: when the daemon dies, every open request gets `{:error, %{"code" => "gone"}}`, the
  server stops, and its supervisor starts a fresh one. No wrapper script is needed: the daemon ends with its port.

  Options: `:command`, `:args` (further flags of `serve`), `:stdio` (false: talk over descriptors 3 and 4, so that
  nothing can get in between), `:tools` (`%{"name" => fn args -> result end}`), `:models` (likewise), `:name`.
  """
  use GenServer

  # Elixir 1.18 brings JSON; before that, Jason, or Debian's erlang-jiffy.
  @json Enum.find([JSON, Jason, :jiffy], &Code.ensure_loaded?/1) || raise("dspy_bridge.ex needs a JSON library")

  def start_link(options \\ []), do: GenServer.start_link(__MODULE__, options, Keyword.take(options, [:name]))

  @doc "The ready frame: protocol, versions, capabilities."
  def ready(bridge), do: GenServer.call(bridge, :ready, 60_000)

  @doc """
  The result of one command: `{:ok, result}` or `{:error, error}`. Options: `:session`, `:timeout_ms` (at the
  daemon), `:on_event` (gets each event and its data first).
  """
  def call(bridge, command, args \\ %{}, options \\ []) do
    monitor = Process.monitor(bridge)
    reply = await(request(bridge, command, args, options), monitor, options[:on_event] || fn _, _ -> :ok end)
    Process.demonitor(monitor, [:flush])
    reply
  end

  @doc """
  Send a command and return its id. The caller gets `{DspyBridge, id, {:event, event, data}}` for each event, and
  in the end `{DspyBridge, id, {:ok, result}}` or `{DspyBridge, id, {:error, error}}`.
  """
  def request(bridge, command, args \\ %{}, options \\ []) do
    GenServer.call(bridge, {:request, command, args, options}, 60_000)
  end

  def cancel(bridge, id), do: call(bridge, "cancel", %{request_id: id})

  @doc "Serve calls of programs: `work` gets the arguments; what it raises is an observation."
  def tool(bridge, name, work), do: GenServer.call(bridge, {:host, "tool", name, work})

  @doc "End the daemon in order: what is open may finish. Its exit status."
  def stop(bridge) do
    monitor = Process.monitor(bridge)
    GenServer.cast(bridge, :stop)

    receive do
      {:DOWN, ^monitor, _, _, {:shutdown, {:daemon_exited, status}}} -> {:ok, status}
      {:DOWN, ^monitor, _, _, reason} -> {:error, reason}
    end
  end

  defp await(id, monitor, on_event) do
    receive do
      {__MODULE__, ^id, {:event, event, data}} ->
        on_event.(event, data)
        await(id, monitor, on_event)

      {__MODULE__, ^id, reply} ->
        reply

      {:DOWN, ^monitor, _, _, _} ->
        {:error, gone("nobody")}
    end
  end

  # -- the server ------------------------------------------------------------------------------

  @impl true
  def init(options) do
    command = executable(options[:command] || "bridge-cli")
    {flags, mode} = if options[:stdio] == false, do: {["--fds", "3,4"], [:nouse_stdio]}, else: {[], []}
    args = ["serve", "--framing", "packet4"] ++ flags ++ (options[:args] || [])
    port = Port.open({:spawn_executable, command}, [:binary, :exit_status, {:packet, 4}, {:args, args} | mode])
    hosted = %{"tool" => options[:tools] || %{}, "lm" => options[:models] || %{}}
    {:ok, %{port: port, last_id: 0, open: %{}, hosted: hosted, ready: nil, waiting: []}}
  end

  # A name is looked up on the PATH, a path from here.
  defp executable(command) do
    path = if String.contains?(command, "/"), do: Path.expand(command), else: command
    System.find_executable(path) || raise "there is no program #{command}"
  end

  @impl true
  def handle_call(:ready, from, %{ready: nil} = state), do: {:noreply, %{state | waiting: [from | state.waiting]}}
  def handle_call(:ready, _from, state), do: {:reply, state.ready, state}

  def handle_call({:request, command, args, options}, {caller, _}, state) do
    id = state.last_id + 1
    fields = for {name, key} <- [session_id: :session, timeout_ms: :timeout_ms], value = options[key], do: {name, value}
    send_frame(state.port, Map.merge(%{id: id, command: command, args: args}, Map.new(fields)))
    {:reply, id, %{state | last_id: id, open: Map.put(state.open, id, caller)}}
  end

  def handle_call({:host, call, name, work}, _from, state) do
    {:reply, :ok, put_in(state.hosted[call][name], work)}
  end

  @impl true
  def handle_cast(:stop, state) do
    send_frame(state.port, %{id: state.last_id + 1, command: "shutdown"})
    {:noreply, %{state | last_id: state.last_id + 1}}
  end

  @impl true
  def handle_info({port, {:data, frame}}, %{port: port} = state), do: {:noreply, take(decode(frame), state)}

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    for {id, caller} <- state.open, do: send(caller, {__MODULE__, id, {:error, gone(status)}})
    reason = {:daemon_exited, status}
    {:stop, if(status == 0, do: {:shutdown, reason}, else: reason), %{state | open: %{}}}
  end

  # A program asks its host. In a process of its own: it may take its time, and several may ask at once.
  defp take(%{"call_id" => call_id, "call" => call, "name" => name, "args" => args}, state) do
    work = state.hosted[call][name]
    port = state.port
    server = self()

    spawn(fn ->
      answer =
        try do
          %{success: true, result: work.(args)}
        rescue
          error -> %{success: false, error: %{message: Exception.message(error)}}
        end

      send_frame(port, Map.put(answer, :call_id, call_id), server)
    end)

    state
  end

  defp take(%{"event" => "ready"} = ready, state) do
    Enum.each(state.waiting, &GenServer.reply(&1, ready))
    %{state | ready: ready, waiting: []}
  end

  defp take(%{"event" => event, "id" => id, "data" => data}, state) do
    if caller = state.open[id], do: send(caller, {__MODULE__, id, {:event, event, data}})
    state
  end

  # Of the daemon itself, such as reloaded.
  defp take(%{"event" => _}, state), do: state

  defp take(%{"id" => id} = frame, state) do
    {caller, open} = Map.pop(state.open, id)
    reply = if frame["success"], do: {:ok, frame["result"]}, else: {:error, frame["error"]}
    if caller, do: send(caller, {__MODULE__, id, reply})
    %{state | open: open}
  end

  defp gone(status), do: %{"code" => "gone", "message" => "the daemon has gone: #{inspect(status)}"}

  # Any process may write to a port in its owner's name.
  defp send_frame(port, frame, owner \\ self()), do: send(port, {owner, {:command, encode(frame)}})

  if @json == :jiffy do
    defp encode(term), do: :erlang.iolist_to_binary(:jiffy.encode(term, [:use_nil]))
    defp decode(text), do: :jiffy.decode(text, [:return_maps, {:null_term, nil}])
  else
    defp encode(term), do: @json.encode!(term)
    defp decode(text), do: @json.decode!(text)
  end
end
