package control

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/notify"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/webhook"
)

// CreateSink implements httpapi.Sinks.
func (s *Server) CreateSink(ctx context.Context, actor string, n starling.NewSink) (*starling.IssuedSink, error) {
	n.SetDefaults()
	if err := errors.Join(n.Check(), s.poster.CheckURL(n.URL)); err != nil {
		return nil, err
	}
	made := ""
	if n.Kind == starling.SinkWebhook && n.Secret == "" {
		key := make([]byte, hookSecretBytes)
		if _, err := io.ReadFull(s.cfg.Rand, key); err != nil {
			return nil, fmt.Errorf("make a secret: %w", err)
		}
		made = webhook.SecretPrefix + base64.StdEncoding.EncodeToString(key)
		n.Secret = made
	}
	target := notify.Target{Kind: n.Kind, URL: n.URL, Template: n.Template, Secret: n.Secret}
	if err := target.Check(); err != nil {
		return nil, err
	}
	sealed, err := s.seal("sink "+n.Name, target)
	if err != nil {
		return nil, err
	}
	k := starling.Sink{Name: n.Name, Kind: n.Kind, To: n.Shown(), Template: n.Template, Apps: n.Apps, Sealed: sealed}
	for _, name := range n.Notices {
		k.Notices = append(k.Notices, starling.Notice(name))
	}
	res, err := s.propose(ctx, actor, raftfsm.TypeSinkCreate, raftfsm.SinkCreate{Sink: k})
	if err != nil {
		return nil, err
	}
	return &starling.IssuedSink{Sink: *res.Sink, Secret: made}, nil
}

// DeleteSink implements httpapi.Sinks.
func (s *Server) DeleteSink(ctx context.Context, actor, name string) error {
	_, err := s.propose(ctx, actor, raftfsm.TypeSinkDelete, raftfsm.SinkDelete{Name: name})
	return err
}

// trialDeployments are looked at for one to try a sink with, the newest.
const trialDeployments = 50

// TrySink implements httpapi.Sinks: it posts one message, once, beside those that the sink is told in order.
func (s *Server) TrySink(ctx context.Context, name string) (*starling.SinkTrial, error) {
	v := s.cfg.FSM.View()
	k, ok := v.Sink(name)
	if !ok {
		return nil, fmt.Errorf("sink %s: %w", name, starling.ErrNotFound)
	}
	var target notify.Target
	if err := s.open("sink "+k.Name, k.Sealed, &target); err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	m, err := notify.Trial(k, s.cfg.Region, v.Deployments(starling.DeploymentFilter{Limit: trialDeployments}), now)
	if err != nil {
		return nil, err
	}
	out := &starling.SinkTrial{ID: m.ID, Text: m.Text}
	if err := s.poster.Post(ctx, &target, m, now); err != nil {
		out.Error = clip(err.Error(), starling.MaxSinkErrorBytes)
	}
	return out, nil
}

// Sinks implements httpapi.Sinks. At the leader it shows how they stand at this moment.
func (s *Server) Sinks() []starling.SinkStatus {
	v := s.cfg.FSM.View()
	t := s.reigning()
	out := []starling.SinkStatus{}
	for _, k := range v.Sinks() {
		st := starling.SinkStatus{Sink: *k}
		if t != nil {
			t.tellers.show(&st)
		}
		var target notify.Target
		if err := s.open("sink "+k.Name, k.Sealed, &target); err != nil {
			st.Unsealed = err.Error()
		}
		events, _ := v.EventsAfter(st.Progress.Index, st.Progress.N, raftfsm.MaxEventsKept)
		for i := range events {
			if s.message(v, k, &events[i]) != nil {
				st.Pending++
			}
		}
		out = append(out, st)
	}
	return out
}

// message is what a sink is to be told of an event, nil if nothing. Events of other homes'
// deployments are told there.
func (s *Server) message(v raftfsm.View, k *starling.Sink, e *starling.Event) *notify.Message {
	if e.Deployment == "" || e.Region != s.cfg.Region || notify.NoticeOf(e) == "" {
		return nil
	}
	d, ok := s.deployment(v, e.Deployment)
	if !ok {
		return nil
	}
	return notify.For(k, e, d)
}
