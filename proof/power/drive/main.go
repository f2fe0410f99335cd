// Command drive works on a journal and tells on standard output what it does,
// one line before and one after each operation. It is what a trace of writes
// and syncs is made of.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/cwprelay/cwprelay/proof/power"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "drive:", err)
		if errors.Is(err, power.ErrStopped) {
			os.Exit(3)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("one argument: the plan, as JSON")
	}
	var plan power.Plan
	if err := json.Unmarshal([]byte(args[0]), &plan); err != nil {
		return err
	}
	return power.Drive(context.Background(), plan, os.Stdout)
}
