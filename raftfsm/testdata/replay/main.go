// Command replay applies logs with the raftfsm that it was built with. For each JSON line
// {"region", "snapshot", "entries"} on its input it writes the snapshot of the state that
// they lead to, as a JSON string of base64.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"log"
	"os"

	"github.com/hashicorp/raft"
	"github.com/starlingdeploy/starling/raftfsm"
)

func main() {
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var job struct {
			Region   string
			Snapshot []byte // to begin with; none: an empty state
			Entries  [][]byte
		}
		if err := in.Decode(&job); err == io.EOF {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		f := raftfsm.New(job.Region)
		if job.Snapshot != nil {
			if err := f.Restore(io.NopCloser(bytes.NewReader(job.Snapshot))); err != nil {
				log.Fatal(err)
			}
		}
		first := f.View().Index() + 1
		for i, e := range job.Entries {
			f.Apply(&raft.Log{Index: first + uint64(i), Data: e})
		}
		var b bytes.Buffer
		if err := f.View().WriteSnapshot(&b); err != nil {
			log.Fatal(err)
		}
		if err := out.Encode(b.Bytes()); err != nil {
			log.Fatal(err)
		}
	}
}
