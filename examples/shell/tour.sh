#!/usr/bin/env bash
# What every client in these examples can do, against a real daemon: bash tour.sh [path to bridge-cli]
set -u
cd "$(dirname "$0")" || exit
source ./dspy_bridge.sh
cli=${1:-bridge-cli}
failure() { jq -r .code "$errors"; }
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

bridge_start "$cli"
echo "ready: protocol $(jq .protocol <<<"$bridge_ready")"
bridge_call configure_lm '{"model": "scripted", "answers": [{"answer": "Paris"}]}' >/dev/null
bridge_call create_program '{"id": "qa", "signature": "question -> answer"}' >/dev/null
echo "created: $(jq -r .program_id <<<"$bridge_result")"
ask='{"program_id": "qa", "inputs": {"question": "Capital of France?"}}'
bridge_call execute_program "$ask" >/dev/null
echo "answer: $(jq -r .outputs.answer <<<"$bridge_result")"

streamed=""
bridge_event() { [[ $1 == token ]] && streamed+=$(jq -r .text <<<"$2"); }
bridge_call execute_program "$(jq -c '. + {stream: ["answer"]}' <<<"$ask")" >/dev/null
echo "streamed: $streamed"

bridge_tool() { [[ $1 == add ]] && jq '.a + .b' <<<"$2"; }
schema='{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}'
bridge_call create_program "$(jq -cn --argjson args "$schema" '{id: "agent", program_type: "react",
  signature: "question -> answer", tools: [{name: "add", description: "Adds.", $args}]}')" >/dev/null
bridge_call execute_program '{"program_id": "agent", "inputs": {"question": "2 + 3?"}, "lm": {"model": "scripted", "answers": [
  {"next_thought": "add them", "next_tool_name": "add", "next_tool_args": {"a": 2, "b": 3}},
  {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}},
  {"reasoning": "added", "answer": "five"}]}}' >/dev/null
echo "tool: $(jq -r .outputs.trajectory.observation_0 <<<"$bridge_result")"

bridge_call execute_program '{"program_id": "none"}' 2>"$errors" || echo "error: $(failure)"
slow=$(jq -c '. + {lm: {model: "scripted", delay_ms: 60000}}' <<<"$ask")
bridge_send execute_program "$slow"
slow_id=$bridge_id
bridge_call cancel "{\"request_id\": $slow_id}" >/dev/null
bridge_wait "$slow_id" 2>"$errors" || echo "cancel: $(failure)"
bridge_call execute_program "$slow" '{"timeout_ms": 200}' 2>"$errors" || echo "timeout: $(failure)"
bridge_close
echo "closed: $?"

bridge_start "$cli"
bridge_call create_program '{"id": "qa", "signature": "question -> answer"}' >/dev/null
bridge_send execute_program "$slow"
kill -KILL "$bridge_pid"
bridge_wait "$bridge_id" 2>"$errors" || echo "killed: $(failure)"
