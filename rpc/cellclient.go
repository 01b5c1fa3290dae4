package rpc

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/starlingdeploy/starling"
)

// Register tells where a machine is and returns its place in the region. ErrConflict:
// another machine answers by its name. ErrNotFound: the servers are of a program without cells.
func (c *Client) Register(ctx context.Context, req RegisterRequest) (Ticket, error) {
	var out Ticket
	return out, c.call(ctx, RouteRegister, "", nil, req, &out)
}

// FeedCursor says what a relay has.
type FeedCursor struct {
	Index   uint64 // of its feed; 0: none
	Reign   string // that its feed names
	Cell    string
	Version uint64 // of its roster of the cell; 0: none
}

func (f FeedCursor) query(wait time.Duration) url.Values {
	q := blocking(f.Index, wait)
	q.Set("reign", f.Reign)
	q.Set("cell", f.Cell)
	q.Set("version", strconv.FormatUint(f.Version, 10))
	return q
}

// Feed returns what machines are told as soon as there is anything that the relay does not
// have, or after wait. ErrFenced: the caller is not of that cell, and registers again.
func (c *Client) Feed(ctx context.Context, have FeedCursor, wait time.Duration) (FeedResponse, error) {
	var out FeedResponse
	return out, c.call(ctx, RouteFeed, "", have.query(wait), nil, &out)
}

// ReportCell delivers a cell's report. ErrFenced: the caller does not speak for that cell.
func (c *Client) ReportCell(ctx context.Context, r CellReport) (CellReportResponse, error) {
	var out CellReportResponse
	return out, c.call(ctx, RouteCellReport, "", nil, r, &out)
}

// CellFeed asks a member of the own cell for what is newer than the caller has. It does not wait.
func (c *Client) CellFeed(ctx context.Context, have FeedCursor) (CellFeedResponse, error) {
	var out CellFeedResponse
	return out, c.call(ctx, RouteCellFeed, "", have.query(0), nil, &out)
}

// ReportToCell delivers a machine's reports to the speaker of its cell, MaxReports at most.
func (c *Client) ReportToCell(ctx context.Context, reports []starling.MachineReport) (CellReportsResponse, error) {
	var out CellReportsResponse
	return out, c.call(ctx, RouteCellReports, "", nil, reports, &out)
}

// CellMachine asks a relay about a member of its cell.
func (c *Client) CellMachine(ctx context.Context, name string) (CellMember, error) {
	var out CellMember
	return out, c.call(ctx, RouteCellMachine, "", url.Values{"name": {name}}, nil, &out)
}

// CellMembers asks a relay about all members of its cell.
func (c *Client) CellMembers(ctx context.Context) ([]CellMember, error) {
	var out []CellMember
	return out, c.call(ctx, RouteCellMembers, "", nil, nil, &out)
}

// Member asks a region's leader for a machine, as its cell knows it.
func (c *Client) Member(ctx context.Context, name string) (CellMember, error) {
	var out CellMember
	return out, c.call(ctx, RouteMember, "", url.Values{"name": {name}}, nil, &out)
}

// Cells asks a region's leader how its cells stand with a deployment.
func (c *Client) Cells(ctx context.Context, deployment string) ([]starling.CellProgress, error) {
	var out []starling.CellProgress
	return out, c.call(ctx, RouteCells, "", url.Values{"deployment": {deployment}}, nil, &out)
}
