package cell

import (
	"context"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// ServerClients are Servers that are called through a client for each address.
type ServerClients func(addr string) *rpc.Client

// Feed implements Servers.
func (f ServerClients) Feed(ctx context.Context, addr string, have rpc.FeedCursor, wait time.Duration) (rpc.FeedResponse, error) {
	return f(addr).Feed(ctx, have, wait)
}

// Report implements Servers.
func (f ServerClients) Report(ctx context.Context, addr string, r rpc.CellReport) (rpc.CellReportResponse, error) {
	return f(addr).ReportCell(ctx, r)
}

// PeerClients are Peers that are called through a client for each node. It must see to it
// that nobody but that node answers.
type PeerClients func(to starling.Node) *rpc.Client

// Feed implements Peers.
func (f PeerClients) Feed(ctx context.Context, to starling.Node, have rpc.FeedCursor) (rpc.CellFeedResponse, error) {
	return f(to).CellFeed(ctx, have)
}

// Report implements Peers.
func (f PeerClients) Report(ctx context.Context, to starling.Node, reports []starling.MachineReport) (rpc.CellReportsResponse, error) {
	return f(to).ReportToCell(ctx, reports)
}
