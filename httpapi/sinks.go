package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/starlingdeploy/starling"
)

// sinkDoc is a sink and how far it has been told, without what is secret.
type sinkDoc struct {
	Name        string            `json:"name"`
	Kind        starling.SinkKind `json:"kind"`
	To          string            `json:"to" doc:"Its URL without what is secret in it"`
	Template    string            `json:"template,omitempty"`
	Notices     []starling.Notice `json:"notices"`
	Apps        []string          `json:"apps"`
	CreatedAt   time.Time         `json:"created_at"`
	Actor       string            `json:"actor,omitempty"`
	Delivered   uint64            `json:"delivered"`
	Dropped     uint64            `json:"dropped" doc:"Given up"`
	Pending     int               `json:"pending" doc:"Events that it is still to be told of"`
	LastSuccess time.Time         `json:"last_success,omitzero"`
	LastError   string            `json:"last_error,omitempty"`
	LastErrorAt time.Time         `json:"last_error_at,omitzero"`
	Waiting     string            `json:"waiting,omitempty" doc:"ID of the event that is tried again"`
	Attempt     int               `json:"attempt,omitempty" doc:"How often it has failed"`
	NextTry     time.Time         `json:"next_try,omitzero"`
	Unsealed    string            `json:"unsealed,omitempty" doc:"Why its secret cannot be read"`
}

// issuedSinkDoc shows a sink's secret, this once.
type issuedSinkDoc struct {
	sinkDoc
	Secret string `json:"secret,omitempty" doc:"What its messages are signed with; empty if it was given"`
}

func documentSink(s *starling.SinkStatus) sinkDoc {
	p := s.Progress
	return sinkDoc{
		s.Name, s.Kind, s.To, s.Template, list(s.Notices), list(s.Apps), s.CreatedAt, s.Actor,
		p.Delivered, p.Dropped, s.Pending, p.LastSuccess, p.LastError, p.LastErrorAt, s.Waiting, s.Attempt, s.NextTry, s.Unsealed,
	}
}

type sinkName struct {
	Name string `path:"name" doc:"The name of a sink: starling notify list shows them"`
}

func (a *api) registerSinks() {
	register(a, route{
		method: http.MethodGet, path: "/v1/sinks", id: "list-sinks", summary: "Show who is told of this region's deployments, and how far they have been told",
		role: starling.ACLOperator, place: atLeader,
	}, func(ctx context.Context, in *listRead) (*answer[[]sinkDoc], error) {
		index, err := a.block(ctx, in.Blocking)
		if err != nil {
			return nil, err
		}
		docs := []sinkDoc{}
		sinks := a.Backend.Sinks()
		for i := range sinks {
			docs = append(docs, documentSink(&sinks[i]))
		}
		return &answer[[]sinkDoc]{index, docs}, nil
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/sinks", id: "create-sink", summary: "Tell a webhook, Slack, GitHub or GitLab of what becomes of this region's deployments",
		role: starling.ACLOperator, place: atLeader, body: starling.NewSink{}, status: http.StatusCreated,
	}, func(ctx context.Context, _ *none) (*secret[issuedSinkDoc], error) {
		c := callOf(ctx)
		var n starling.NewSink
		if err := decode(c.body, &n); err != nil {
			return nil, err
		}
		n.SetDefaults()
		if err := n.Check(); err != nil {
			return nil, err
		}
		k, err := a.Backend.CreateSink(ctx, c.actor, n)
		if err != nil {
			return nil, err
		}
		return &secret[issuedSinkDoc]{"no-store", issuedSinkDoc{documentSink(&starling.SinkStatus{Sink: k.Sink}), k.Secret}}, nil
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/sinks/{name}/test", id: "try-sink", summary: "Send a sink one message now, and say what became of it",
		role: starling.ACLOperator, place: atLeader,
	}, func(ctx context.Context, in *sinkName) (*answer[*starling.SinkTrial], error) {
		trial, err := a.Backend.TrySink(ctx, in.Name)
		if err != nil {
			return nil, err
		}
		return &answer[*starling.SinkTrial]{a.Backend.Leader().Index, trial}, nil
	})
	register(a, route{
		method: http.MethodDelete, path: "/v1/sinks/{name}", id: "delete-sink", summary: "Tell a sink no more; what it was still to be told is forgotten",
		role: starling.ACLOperator, place: atLeader, status: http.StatusNoContent,
	}, func(ctx context.Context, in *sinkName) (*none, error) {
		return nothing(a.Backend.DeleteSink(ctx, callOf(ctx).actor, in.Name))
	})
}
