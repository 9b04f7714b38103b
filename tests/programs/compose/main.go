// Loads a compose file with the library that `docker compose` is made of, schema and all, and prints what it understood.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(os.Args[1:], cli.WithOsEnv, cli.WithResolvedPaths(false))
	if err == nil {
		options.Environment["COMPOSE_PROJECT_NAME"] = ""
		project, loading := cli.ProjectFromOptions(context.Background(), options)
		if err = loading; err == nil {
			err = json.NewEncoder(os.Stdout).Encode(project)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
