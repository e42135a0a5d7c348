// A client of dspy-bridge for Go 1.18 or newer; the standard library only. Copy this file.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
)

// Args is any JSON object.
type Args = map[string]any

// Error is an error reply of the daemon; Code is one of its closed list.
type Error struct {
	Code      string          `json:"code"`
	Message   string          `json:"message"`
	Retryable bool            `json:"retryable"`
	Details   json.RawMessage `json:"details"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// ErrGone is what open calls end with when the daemon does.
var ErrGone = errors.New("the daemon has gone")

// Frame is anything the daemon says.
type Frame struct {
	ID      any             `json:"id,omitempty"`
	Event   string          `json:"event,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	Success bool            `json:"success"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *Error          `json:"error,omitempty"`
	CallID  string          `json:"call_id,omitempty"`
	Call    string          `json:"call,omitempty"`
	Name    string          `json:"name,omitempty"`
	Args    json.RawMessage `json:"args,omitempty"`
	Raw     json.RawMessage `json:"-"`
}

// Request is one command. Events, where set, is called with each event that precedes the reply.
type Request struct {
	Command   string
	Session   string
	Args      any
	TimeoutMS int
	Events    func(Frame)
}

// Hosted serves calls of programs to their host; kind is "tool" or "lm". It is called from goroutines.
type Hosted func(kind, name string, args json.RawMessage) (any, error)

// Bridge is one private daemon: it ends with this process.
type Bridge struct {
	Ready  Frame
	Host   Hosted
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	write  sync.Mutex
	mu     sync.Mutex
	lastID int
	open   map[int]*waiting
	gone   chan struct{}
}

type waiting struct {
	reply  chan Frame
	events func(Frame)
}

// Start spawns the daemon and waits for its first frame.
func Start(command string, args ...string) (*Bridge, error) {
	cmd := exec.Command(command, args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b := &Bridge{cmd: cmd, stdin: stdin, open: map[int]*waiting{}, gone: make(chan struct{})}
	// Not a bufio.Scanner: it gives up on lines longer than 64 KiB.
	lines := bufio.NewReader(stdout)
	if b.Ready, err = next(lines); err != nil {
		return nil, fmt.Errorf("%w before it was ready: %v", ErrGone, err)
	}
	go b.read(lines)
	return b, nil
}

func next(lines *bufio.Reader) (frame Frame, err error) {
	line, err := lines.ReadBytes('\n')
	if err == nil {
		frame.Raw = line
		err = json.Unmarshal(line, &frame)
	}
	return frame, err
}

func (b *Bridge) read(lines *bufio.Reader) {
	defer close(b.gone)
	for {
		frame, err := next(lines)
		if err != nil {
			return
		}
		if frame.CallID != "" {
			go b.answer(frame)
			continue
		}
		number, _ := frame.ID.(float64)
		b.mu.Lock()
		opened := b.open[int(number)]
		if frame.Event == "" {
			delete(b.open, int(number))
		}
		b.mu.Unlock()
		switch {
		case opened == nil:
		case frame.Event == "":
			opened.reply <- frame
		case opened.events != nil:
			opened.events(frame)
		}
	}
}

func (b *Bridge) answer(frame Frame) {
	answer := Args{"call_id": frame.CallID, "success": true}
	result, err := any(nil), errors.New("this host serves no calls")
	if b.Host != nil {
		result, err = b.Host(frame.Call, frame.Name, frame.Args)
	}
	if err == nil {
		answer["result"] = result
	} else {
		answer["success"], answer["error"] = false, Args{"message": err.Error()}
	}
	_ = b.send(answer)
}

func (b *Bridge) send(frame any) error {
	line, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	b.write.Lock()
	defer b.write.Unlock()
	_, err = b.stdin.Write(append(line, '\n'))
	return err
}

// Do sends a request, waits for its reply and decodes the result into result (unless that is nil).
// When ctx ends first, the request is cancelled at the daemon, and Do still waits for its reply.
func (b *Bridge) Do(ctx context.Context, request Request, result any) error {
	opened := &waiting{reply: make(chan Frame, 1), events: request.Events}
	b.mu.Lock()
	b.lastID++
	id := b.lastID
	b.open[id] = opened
	b.mu.Unlock()
	frame := Args{"id": id, "command": request.Command}
	if request.Args != nil {
		frame["args"] = request.Args
	}
	if request.Session != "" {
		frame["session_id"] = request.Session
	}
	if request.TimeoutMS > 0 {
		frame["timeout_ms"] = request.TimeoutMS
	}
	if err := b.send(frame); err != nil {
		return fmt.Errorf("%w: %v", ErrGone, err)
	}
	done := ctx.Done()
	for {
		select {
		case reply := <-opened.reply:
			if reply.Error != nil {
				return reply.Error
			}
			if result == nil {
				return nil
			}
			return json.Unmarshal(reply.Result, result)
		case <-done:
			done = nil
			cancel := Request{Command: "cancel", Args: Args{"request_id": id}}
			go func() { _ = b.Do(context.Background(), cancel, nil) }()
		case <-b.gone:
			return ErrGone
		}
	}
}

// Close ends the daemon in order (what is open may finish) and gives its exit code.
func (b *Bridge) Close() (int, error) {
	b.stdin.Close()
	<-b.gone // all of its output has been read: only now may Wait close the pipe
	err := b.cmd.Wait()
	return b.cmd.ProcessState.ExitCode(), err
}
