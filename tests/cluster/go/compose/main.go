// compose-check FILE: what `docker compose config` makes of a file, by the library that it is made of.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(os.Args[1:])
	if err == nil {
		var text []byte
		project, loading := options.LoadProject(context.Background())
		if err = loading; err == nil {
			text, err = project.MarshalYAML()
		}
		fmt.Print(string(text))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
