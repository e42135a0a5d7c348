# frozen_string_literal: true

# What every client in these examples can do, against a real daemon: ruby tour.rb [path to bridge-cli]
require_relative "dspy_bridge"

$stdout.sync = true
cli = ARGV.fetch(0, "bridge-cli")
bridge = DspyBridge::Bridge.new(cli, "serve")

def failure
  yield
  "nothing failed"
rescue DspyBridge::Error => e
  e.code
end

puts "ready: protocol #{bridge.ready['protocol']}"
bridge.call("configure_lm", { model: "scripted", answers: [{ answer: "Paris" }] })
puts "created: #{bridge.call('create_program', { id: 'qa', signature: 'question -> answer' })['program_id']}"
ask = { program_id: "qa", inputs: { question: "Capital of France?" } }
puts "answer: #{bridge.call('execute_program', ask).dig('outputs', 'answer')}"

streamed = +""
bridge.call("execute_program", { **ask, stream: ["answer"] }) do |frame|
  streamed << frame["data"]["text"] if frame["event"] == "token"
end
puts "streamed: #{streamed.strip}"

bridge.tool("add") { |args| args["a"] + args["b"] }
number = { type: "integer" }
schema = { type: "object", properties: { a: number, b: number } }
bridge.call("create_program", { id: "agent", program_type: "react", signature: "question -> answer",
                                tools: [{ name: "add", description: "Adds.", args: schema }] })
steps = [{ next_thought: "add them", next_tool_name: "add", next_tool_args: { a: 2, b: 3 } },
         { next_thought: "done", next_tool_name: "finish", next_tool_args: {} },
         { reasoning: "added", answer: "five" }]
agent = { program_id: "agent", inputs: { question: "2 + 3?" }, lm: { model: "scripted", answers: steps } }
puts "tool: #{bridge.call('execute_program', agent).dig('outputs', 'trajectory', 'observation_0')}"

puts "error: #{failure { bridge.call('execute_program', { program_id: 'none' }) }}"
slow = { **ask, lm: { model: "scripted", delay_ms: 60_000 } }
id = bridge.start("execute_program", slow)
bridge.cancel(id)
puts "cancel: #{failure { bridge.wait(id) }}"
puts "timeout: #{failure { bridge.call('execute_program', slow, timeout_ms: 200) }}"
puts "closed: #{bridge.close.exitstatus}"

dying = DspyBridge::Bridge.new(cli, "serve")
dying.call("create_program", { id: "qa", signature: "question -> answer" })
id = dying.start("execute_program", slow)
Process.kill("KILL", dying.pid)
puts "killed: #{failure { dying.wait(id) }}"
