// Ask the oracle from Go: what does the firmware answer, and why?
// go run client.go sevref
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

type request struct {
	Op     string `json:"op"`
	Seed   string `json:"seed,omitempty"`
	Cmd    string `json:"cmd,omitempty"`
	Buffer string `json:"cmdbuf_in,omitempty"`
}

type answer struct {
	Ok     bool   `json:"ok"`
	Error  string `json:"error"`
	Status string `json:"status"`
	Rule   string `json:"rule"`
	Buffer string `json:"cmdbuf_out"`
}

type oracle struct {
	process  *exec.Cmd
	requests io.WriteCloser
	answers  *bufio.Reader
}

func start(command []string) (*oracle, error) {
	process := exec.Command(command[0], append(command[1:], "serve", "--stdio")...)
	process.Stderr = os.Stderr
	requests, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	answers, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &oracle{process, requests, bufio.NewReader(answers)}, process.Start()
}

func (o *oracle) ask(what request) answer {
	var found answer
	line, err := json.Marshal(what)
	check(err)
	_, err = fmt.Fprintf(o.requests, "%s\n", line)
	check(err)
	reply, err := o.answers.ReadBytes('\n')
	check(err)
	check(json.Unmarshal(reply, &found))
	if !found.Ok {
		check(fmt.Errorf("%s", found.Error))
	}
	return found
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	command := os.Args[1:]
	if len(command) == 0 {
		command = []string{"sevref"}
	}
	o, err := start(command)
	check(err)
	o.ask(request{Op: "create", Seed: "00"})
	init := o.ask(request{Op: "cmd", Cmd: "INIT", Buffer: strings.Repeat("00", 20)})
	fmt.Println(init.Status)
	activate := o.ask(request{Op: "cmd", Cmd: "ACTIVATE", Buffer: "0100000064000000"})
	fmt.Println(activate.Status, "-", activate.Rule)
	check(o.requests.Close()) // the oracle ends with its input
	check(o.process.Wait())
}
