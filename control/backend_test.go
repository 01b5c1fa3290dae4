package control_test

import (
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/control"
	"github.com/starlingdeploy/starling/httpapi"
	"github.com/starlingdeploy/starling/membership"
	"github.com/starlingdeploy/starling/raftnode"
)

// What stands behind the interfaces of this package, and before them.
var (
	_ httpapi.Backend = (*control.Server)(nil)
	_ control.Raft    = (*raftnode.Node)(nil)
	_ control.Members = (*membership.Pool)(nil)
	_ control.Blobs   = (*blobcache.Region)(nil)
)
