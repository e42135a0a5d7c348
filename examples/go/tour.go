// What every client in these examples can do, against a real daemon: go run . [path to bridge-cli]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"
)

func code(err error) string {
	var failed *Error
	if errors.As(err, &failed) {
		return failed.Code
	}
	if errors.Is(err, ErrGone) {
		return "gone"
	}
	return fmt.Sprint(err)
}

func main() {
	log.SetFlags(0)
	cli := "bridge-cli"
	if len(os.Args) > 1 {
		cli = os.Args[1]
	}
	bridge, err := Start(cli, "serve")
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	do := func(command string, args any, result any) {
		if err := bridge.Do(ctx, Request{Command: command, Args: args}, result); err != nil {
			log.Fatal(err)
		}
	}
	var ready struct{ Protocol int }
	_ = json.Unmarshal(bridge.Ready.Raw, &ready)
	fmt.Println("ready: protocol", ready.Protocol)

	do("configure_lm", Args{"model": "scripted", "answers": []Args{{"answer": "Paris"}}}, nil)
	var created struct {
		ID string `json:"program_id"`
	}
	do("create_program", Args{"id": "qa", "signature": "question -> answer"}, &created)
	fmt.Println("created:", created.ID)

	type execution struct{ Outputs map[string]any }
	ask := Args{"program_id": "qa", "inputs": Args{"question": "Capital of France?"}}
	var answered execution
	do("execute_program", ask, &answered)
	fmt.Println("answer:", answered.Outputs["answer"])

	var streamed strings.Builder
	tokens := func(frame Frame) {
		var token struct{ Text string }
		if frame.Event == "token" && json.Unmarshal(frame.Data, &token) == nil {
			streamed.WriteString(token.Text)
		}
	}
	streaming := Args{"program_id": "qa", "inputs": ask["inputs"], "stream": []string{"answer"}}
	if err := bridge.Do(ctx, Request{Command: "execute_program", Args: streaming, Events: tokens}, nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println("streamed:", strings.TrimSpace(streamed.String()))

	bridge.Host = func(kind, name string, args json.RawMessage) (any, error) {
		var numbers struct{ A, B int }
		if err := json.Unmarshal(args, &numbers); err != nil || name != "add" {
			return nil, fmt.Errorf("no %s %s of %s", kind, name, args)
		}
		return numbers.A + numbers.B, nil
	}
	number := Args{"type": "integer"}
	schema := Args{"type": "object", "properties": Args{"a": number, "b": number}}
	do("create_program", Args{"id": "agent", "program_type": "react", "signature": "question -> answer",
		"tools": []Args{{"name": "add", "description": "Adds.", "args": schema}}}, nil)
	steps := []Args{
		{"next_thought": "add them", "next_tool_name": "add", "next_tool_args": Args{"a": 2, "b": 3}},
		{"next_thought": "done", "next_tool_name": "finish", "next_tool_args": Args{}},
		{"reasoning": "added", "answer": "five"},
	}
	var agent struct {
		Outputs struct{ Trajectory map[string]any }
	}
	do("execute_program", Args{"program_id": "agent", "inputs": Args{"question": "2 + 3?"},
		"lm": Args{"model": "scripted", "answers": steps}}, &agent)
	fmt.Println("tool:", agent.Outputs.Trajectory["observation_0"])

	failing := Request{Command: "execute_program", Args: Args{"program_id": "none"}}
	fmt.Println("error:", code(bridge.Do(ctx, failing, nil)))
	slow := Request{Command: "execute_program", Args: Args{"program_id": "qa", "inputs": ask["inputs"],
		"lm": Args{"model": "scripted", "delay_ms": 60_000}}}
	short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	fmt.Println("cancel:", code(bridge.Do(short, slow, nil)))
	stop()
	slow.TimeoutMS = 200
	fmt.Println("timeout:", code(bridge.Do(ctx, slow, nil)))
	exit, _ := bridge.Close()
	fmt.Println("closed:", exit)

	dying, err := Start(cli, "serve")
	if err != nil {
		log.Fatal(err)
	}
	program := Args{"id": "qa", "signature": "question -> answer"}
	if err := dying.Do(ctx, Request{Command: "create_program", Args: program}, nil); err != nil {
		log.Fatal(err)
	}
	slow.TimeoutMS = 0
	time.AfterFunc(100*time.Millisecond, func() { _ = dying.cmd.Process.Kill() })
	fmt.Println("killed:", code(dying.Do(ctx, slow, nil)))
	_, _ = dying.Close()
}
