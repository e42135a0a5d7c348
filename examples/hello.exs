# A host in Elixir: a port with {:packet, 4}, no wrapper script, no dependency.
#   elixir examples/hello.exs [path to bridge-cli]
# Real code would use a JSON library; this one only shows the wire.
cli = List.first(System.argv()) || System.find_executable("bridge-cli")
args = ["serve", "--framing", "packet4", "--no-ready"]
port = Port.open({:spawn_executable, cli}, [:binary, :exit_status, {:packet, 4}, args: args])

call = fn json ->
  Port.command(port, json)

  receive do
    {^port, {:data, frame}} -> frame
  after
    30_000 -> raise "the daemon did not answer"
  end
end

call.(~s({"id":1,"command":"configure_lm","args":{"model":"scripted","answers":[{"answer":"Hello, Elixir."}]}}))
call.(~s({"id":2,"command":"create_program","args":{"id":"qa","signature":"question -> answer"}}))
frame = call.(~s({"id":3,"command":"execute_program","args":{"program_id":"qa","inputs":{"question":"Who?"}}}))
[_, answer] = Regex.run(~r/"answer":"([^"]*)"/, frame)
IO.puts(answer)
# Closing the port closes the daemon's input: it ends, and everything it started with it.
Port.close(port)
