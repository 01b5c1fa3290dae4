package build

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// isLost reports whether the leader said that the job is no longer ours.
func isLost(err error) bool {
	return errors.Is(err, starling.ErrFenced) || errors.Is(err, starling.ErrNotFound)
}

// heartbeats renews the lease until ctx ends. A leader that cannot be reached stops
// nothing: the next one grants every lease a fresh time, and a lease that was given to
// another worker meanwhile fences this one at the first heartbeat that gets through.
// A draft that has grown is worth a heartbeat at once.
func (w *Worker) heartbeats(ctx context.Context, job *rpc.Job, list *draft, cancel context.CancelCauseFunc) {
	for {
		try, done := context.WithTimeout(ctx, rpc.HeartbeatWithin)
		beat := rpc.HeartbeatRequest{Lease: job.Lease}
		beat.Draft, beat.UploadMS = list.now()
		err := w.cfg.Leader.Heartbeat(try, job.Deployment, beat)
		done()
		if err != nil && isLost(err) {
			cancel(&lostError{err})
			return
		}
		if err != nil && ctx.Err() == nil {
			w.log.Debug("heartbeat", "deployment", job.Deployment, "err", err)
		}
		pause, news := w.heartbeatEvery, list.news
		if err != nil {
			pause, news = pause/4, nil
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-news:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (w *Worker) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return f(ctx)
}

// postLog sends a piece of a log from offset on and returns the leader's answer.
type postLog func(ctx context.Context, offset int64, data []byte) (next int64, err error)

// logOf posts to the log of a build.
func (w *Worker) logOf(job *rpc.Job) postLog {
	return func(ctx context.Context, offset int64, data []byte) (int64, error) {
		return w.cfg.Leader.JobLog(ctx, job.Deployment, rpc.LogRequest{Lease: job.Lease, Offset: offset, Data: data})
	}
}

// stream sends the log to the leader as it grows, and all of it once it is finished.
// The leader says from where to go on: a new one may lack what its predecessor had.
func (w *Worker) stream(ctx context.Context, post postLog, log *buildLog, cancel context.CancelCauseFunc) {
	var next int64
	b := backoff{min: w.logPostEvery, max: 2 * time.Second}
	for {
		piece, size, done := log.from(next, rpc.MaxLogPostBytes)
		if len(piece) == 0 {
			if done {
				return
			}
			select {
			case <-log.grown:
			case <-log.finished:
			case <-ctx.Done():
				return
			}
			continue
		}
		var answer int64
		err := w.call(ctx, func(ctx context.Context) (err error) {
			answer, err = post(ctx, next, piece)
			return err
		})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && isLost(err):
			cancel(&lostError{err})
			return
		case err != nil:
			if b.wait(ctx) != nil {
				return
			}
			continue
		}
		forward := answer > next
		next = max(0, min(answer, size))
		b.tries = 0
		if done && forward {
			continue // nothing new will come: no reason to wait
		}
		if !w.pause(ctx, log, done) {
			return
		}
	}
}

// streamBeside streams while others write the log. It has ended when streamed is closed: once the
// finished log is delivered, or by stop.
func (w *Worker) streamBeside(ctx context.Context, post postLog, log *buildLog, cancel context.CancelCauseFunc) (streamed <-chan struct{}, stop func()) {
	ctx, stop = context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.stream(ctx, post, log, cancel)
	}()
	return done, stop
}

// pause waits until the next post is due, which the end of the log, if still to come,
// makes at once. It reports false when ctx has ended.
func (w *Worker) pause(ctx context.Context, log *buildLog, done bool) bool {
	finished := log.finished
	if done {
		finished = nil
	}
	t := time.NewTimer(w.logPostEvery)
	defer t.Stop()
	select {
	case <-t.C:
	case <-finished:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// storeLog puts the text of a log, one chunk at most, into the caches.
func (w *Worker) storeLog(ctx context.Context, text []byte) (starling.Digest, error) {
	if len(text) == 0 {
		return starling.Digest{}, nil
	}
	d := starling.DigestOf(text)
	err := retry(ctx, min(storeLogFor, w.uploadFor), func(ctx context.Context) error { return w.cfg.Blobs.Put(ctx, d, text) })
	if err != nil {
		return starling.Digest{}, err
	}
	return d, nil
}

// report tells the leader the result and returns once it knows, or nobody wants it any
// more, or the deadline is past.
func (w *Worker) report(ctx context.Context, job *rpc.Job, p *packed, list *draft, failed error, log starling.Digest) error {
	end := job.Deadline
	if least := time.Now().Add(reportAtLeast); end.Before(least) {
		end = least
	}
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	if failed == nil {
		err := w.deliver(ctx, func(ctx context.Context) error {
			_, uploadMS := list.now()
			return w.cfg.Leader.Complete(ctx, job.Deployment, rpc.CompleteRequest{
				Lease: job.Lease, Artifact: w.record(job, p), NewBytes: p.newBytes, UploadMS: uploadMS, Log: log, Sandboxed: w.box.sandboxed(),
				Commits: p.commits,
			})
		})
		if err == nil || isLost(err) || ctx.Err() != nil {
			return err
		}
		failed = fmt.Errorf("the leader refused the result: %w", err)
	}
	err := w.deliver(ctx, func(ctx context.Context) error {
		return w.cfg.Leader.Fail(ctx, job.Deployment, rpc.FailRequest{
			Lease: job.Lease, Reason: clip(failed.Error(), starling.MaxReasonBytes), Log: log, Sandboxed: w.box.sandboxed(),
		})
	})
	if err != nil {
		return fmt.Errorf("reporting the failure: %w", err)
	}
	return nil
}

// deliver calls f until it gets an answer: success, or a refusal that another try would
// meet again. The bound is ctx.
func (w *Worker) deliver(ctx context.Context, f func(context.Context) error) error {
	b := backoff{min: 100 * time.Millisecond, max: 3 * time.Second}
	for {
		err := w.call(ctx, f)
		switch {
		case err == nil, isLost(err), starling.IsInvalid(err), errors.Is(err, starling.ErrConflict), errors.Is(err, starling.ErrForbidden):
			return err
		}
		if werr := b.wait(ctx); werr != nil {
			return errors.Join(werr, err)
		}
	}
}

// record is what the cluster keeps of the artifact.
func (w *Worker) record(job *rpc.Job, p *packed) starling.Artifact {
	return starling.Artifact{
		Digest: p.digest, App: job.App.Name, SHA: job.SHA, BuildKey: job.BuildKey,
		Bytes: p.manifest.Bytes(), Files: len(p.manifest.Files), Chunks: len(p.manifest.Chunks),
		Region: w.cfg.Region, Actor: "worker:" + w.cfg.Name, CreatedAt: time.Now().UTC(), Sandboxed: w.box.sandboxed(),
	}
}

// clip makes s valid text of at most limit bytes.
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if len(s) <= limit {
		return s
	}
	const mark = "…"
	cut := limit - len(mark)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + mark
}
