// kstatus-eval reads JSON objects on stdin and prints, one word a line, what kstatus makes of each:
// the library behind Flux `wait: true`, Helm's --wait and kpt live apply. Exit code 2: unreadable.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "kstatus-eval:", err)
		os.Exit(2)
	}
}

func main() {
	for dec := json.NewDecoder(os.Stdin); ; {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if err == io.EOF {
			return
		}
		fail(err)
		// Not json.Unmarshal: kstatus wants int64 numbers, as UnmarshalJSON makes them.
		u := &unstructured.Unstructured{}
		fail(u.UnmarshalJSON(raw))
		result, err := status.Compute(u)
		fail(err)
		fmt.Println(result.Status)
	}
}
