// Command holesreached reads govulncheck's JSON report and prints the id of each
// hole whose vulnerable function the scanned programs call, one a line. Holes
// that are merely in a required module are not printed.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// message is the part of govulncheck's streaming JSON that is of interest.
type message struct {
	Finding *struct {
		OSV   string `json:"osv"`
		Trace []struct {
			Function string `json:"function"`
		} `json:"trace"`
	} `json:"finding"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "holesreached:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	decoder := json.NewDecoder(in)
	for {
		var m message
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("govulncheck's report: %w", err)
		}
		if m.Finding == nil || len(m.Finding.Trace) == 0 || m.Finding.Trace[0].Function == "" {
			continue
		}
		if _, err := fmt.Fprintln(out, m.Finding.OSV); err != nil {
			return err
		}
	}
}
