# What every client in these examples can do, against a real daemon: elixir tour.exs [path to bridge-cli]
Code.require_file("dspy_bridge.ex", __DIR__)
Process.flag(:trap_exit, true)
Logger.configure(level: :none)

cli = List.first(System.argv()) || "bridge-cli"
code = fn {:error, error} -> error["code"] end
tools = %{"add" => fn %{"a" => a, "b" => b} -> a + b end}
{:ok, bridge} = DspyBridge.start_link(command: cli, tools: tools)
call = fn command, args -> with {:ok, result} <- DspyBridge.call(bridge, command, args), do: result end

IO.puts("ready: protocol #{DspyBridge.ready(bridge)["protocol"]}")
call.("configure_lm", %{model: "scripted", answers: [%{answer: "Paris"}]})
IO.puts("created: #{call.("create_program", %{id: "qa", signature: "question -> answer"})["program_id"]}")
ask = %{program_id: "qa", inputs: %{question: "Capital of France?"}}
IO.puts("answer: #{call.("execute_program", ask)["outputs"]["answer"]}")

{:ok, streamed} = Agent.start_link(fn -> "" end)
tokens = fn event, data -> if event == "token", do: Agent.update(streamed, &(&1 <> data["text"])) end
DspyBridge.call(bridge, "execute_program", Map.put(ask, :stream, ["answer"]), on_event: tokens)
IO.puts("streamed: #{String.trim(Agent.get(streamed, & &1))}")

number = %{type: "integer"}
schema = %{type: "object", properties: %{a: number, b: number}}
tool = %{name: "add", description: "Adds.", args: schema}
call.("create_program", %{id: "agent", program_type: "react", signature: "question -> answer", tools: [tool]})

steps = [
  %{next_thought: "add them", next_tool_name: "add", next_tool_args: %{a: 2, b: 3}},
  %{next_thought: "done", next_tool_name: "finish", next_tool_args: %{}},
  %{reasoning: "added", answer: "five"}
]

lm = %{model: "scripted", answers: steps}
agent = call.("execute_program", %{program_id: "agent", inputs: %{question: "2 + 3?"}, lm: lm})
IO.puts("tool: #{agent["outputs"]["trajectory"]["observation_0"]}")

IO.puts("error: #{code.(DspyBridge.call(bridge, "execute_program", %{program_id: "none"}))}")
slow = Map.put(ask, :lm, %{model: "scripted", delay_ms: 60_000})
id = DspyBridge.request(bridge, "execute_program", slow)
DspyBridge.cancel(bridge, id)

receive do
  {DspyBridge, ^id, reply} -> IO.puts("cancel: #{code.(reply)}")
end

IO.puts("timeout: #{code.(DspyBridge.call(bridge, "execute_program", slow, timeout_ms: 200))}")
{:ok, status} = DspyBridge.stop(bridge)
IO.puts("closed: #{status}")

# Under a supervisor, and over descriptors of its own: what is killed is started again.
child = %{id: :bridge, start: {DspyBridge, :start_link, [[command: cli, stdio: false, name: :bridge]]}}
{:ok, _} = Supervisor.start_link([child], strategy: :one_for_one)
DspyBridge.call(:bridge, "create_program", %{id: "qa", signature: "question -> answer"})
id = DspyBridge.request(:bridge, "execute_program", slow)
System.cmd("kill", ["-KILL", to_string(DspyBridge.ready(:bridge)["pid"])])

receive do
  {DspyBridge, ^id, reply} -> IO.puts("killed: #{code.(reply)}")
end

again = Stream.repeatedly(fn -> Process.sleep(20) && Process.whereis(:bridge) end)
Enum.find(again, & &1)
{:ok, %{"status" => "ok"}} = DspyBridge.call(:bridge, "ping")
