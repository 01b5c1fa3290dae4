package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

// screen shows a deployment's way: lines that stay, and how it stands now.
type screen interface {
	lines([]string)
	stand(p *starling.DeploymentProgress)
	close()
}

// lineScreen prints the lines only, for files and pipes.
type lineScreen struct{ w io.Writer }

func (s *lineScreen) lines(all []string) {
	for _, l := range all {
		fmt.Fprintln(s.w, l)
	}
}

func (s *lineScreen) stand(*starling.DeploymentProgress) {}
func (s *lineScreen) close()                             {}

const screenEvery = 200 * time.Millisecond // the frame is drawn anew

// liveScreen keeps a frame below the lines.
type liveScreen struct {
	pool    *mpb.Progress
	columns func() int
	now     atomic.Pointer[standNow]
	rows    []*mpb.Bar // there are never fewer than before
}

// standNow is what is drawn: how it stood, and when that was heard.
type standNow struct {
	p     starling.DeploymentProgress
	heard time.Time
}

func newLiveScreen(f *os.File) *liveScreen {
	return &liveScreen{
		pool:    mpb.New(mpb.WithOutput(f), mpb.WithWidth(80), mpb.WithRefreshRate(screenEvery)),
		columns: func() int { return columnsOf(f) },
	}
}

// columnsOf returns how wide a terminal is; 80 if it does not tell.
func columnsOf(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return 80
	}
	return int(size.Col)
}

func (s *liveScreen) lines(all []string) {
	for _, l := range all {
		fmt.Fprintln(s.pool, cutTo(l, 2*s.columns())) // a long one may fill two rows
	}
}

func (s *liveScreen) stand(p *starling.DeploymentProgress) {
	s.now.Store(&standNow{*p, time.Now()})
	for n := len(s.drawn()); len(s.rows) < n; {
		i := len(s.rows)
		s.rows = append(s.rows, s.pool.New(1, mpb.NopStyle(), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			if all := s.drawn(); i < len(all) {
				return all[i]
			}
			return ""
		}))))
	}
}

// drawn is the frame of this moment, one column less than there are, so that no terminal
// wraps it.
func (s *liveScreen) drawn() []string {
	n := s.now.Load()
	return frame(&n.p, n.p.At.Add(time.Since(n.heard)), s.columns()-1)
}

func (s *liveScreen) close() {
	for _, b := range s.rows {
		b.Abort(false)
	}
	s.pool.Wait()
}
