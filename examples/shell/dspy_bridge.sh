# A client of dspy-bridge for bash 4 or newer and jq. Source this file.
#   bridge_start [command]     starts a daemon of this shell's own
#   bridge_call COMMAND [ARGS] prints the result; 1 and the error on stderr if it failed
#   bridge_send COMMAND [ARGS [FIELDS]]; bridge_wait ID    the same in two steps, for several at once
# Define bridge_event (gets event and data) and bridge_tool (gets name and args, prints JSON) to be told and asked.

bridge_event() { :; }
bridge_tool() {
  echo "this host has no tool $1" >&2
  return 1
}

bridge_start() {
  coproc DSPY_BRIDGE { exec "${1:-bridge-cli}" serve; }
  bridge_pid=$DSPY_BRIDGE_PID bridge_id=0
  declare -gA bridge_replies=()
  # bash forgets the coprocess's descriptors when it ends: keep copies.
  exec {bridge_out}<&"${DSPY_BRIDGE[0]}" {bridge_in}>&"${DSPY_BRIDGE[1]}"
  exec {DSPY_BRIDGE[0]}<&- {DSPY_BRIDGE[1]}>&-
  IFS= read -r bridge_ready <&"$bridge_out"
}

# Not to be called in $( ): it counts.
bridge_send() {
  bridge_id=$((bridge_id + 1))
  jq -cn --argjson id "$bridge_id" --arg command "$1" --argjson args "${2:-"{}"}" --argjson more "${3:-"{}"}" \
    '{$id, $command, $args} + $more' >&"$bridge_in"
}

bridge_wait() {
  local wanted=$1 line id reply
  while [[ -z ${bridge_replies[$wanted]:-} ]]; do
    if ! IFS= read -r line <&"$bridge_out"; then
      echo '{"code": "gone", "message": "the daemon has gone"}' >&2
      return 1
    fi
    if [[ $(jq 'has("call_id")' <<<"$line") == true ]]; then
      _bridge_answer "$line"
    elif [[ $(jq 'has("event")' <<<"$line") == true ]]; then
      bridge_event "$(jq -r .event <<<"$line")" "$(jq -c .data <<<"$line")"
    else
      id=$(jq -r .id <<<"$line")
      bridge_replies[$id]=$line
    fi
  done
  reply=${bridge_replies[$wanted]}
  unset "bridge_replies[$wanted]"
  if [[ $(jq .success <<<"$reply") == true ]]; then
    bridge_result=$(jq -c .result <<<"$reply")
  else
    jq -c .error <<<"$reply" >&2
    return 1
  fi
}

_bridge_answer() {
  local result
  if result=$(bridge_tool "$(jq -r .name <<<"$1")" "$(jq -c .args <<<"$1")" 2>&1); then
    jq -c --argjson result "$result" '{call_id, success: true, $result}' <<<"$1" >&"$bridge_in"
  else
    jq -c --arg message "$result" '{call_id, success: false, error: {$message}}' <<<"$1" >&"$bridge_in"
  fi
}

# Leaves the result in bridge_result too: a shell function in $( ) could not keep its count.
bridge_call() {
  bridge_send "$@"
  bridge_wait "$bridge_id" && printf '%s\n' "$bridge_result"
}

# The daemon ends with its input; what is open may finish. Its exit code.
bridge_close() {
  exec {bridge_in}>&-
  wait "$bridge_pid"
}
