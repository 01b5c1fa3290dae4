package swarm

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// Record is one Step: what went in and what came out. A list of them, from New on,
// is a trace that Replay can check. Its JSON form is one object.
type Record struct {
	At      time.Duration
	Event   Event
	Effects []Effect
}

type tagged struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

type recordJSON struct {
	At      time.Duration `json:"at"` // ns
	Event   tagged        `json:"event"`
	Effects []tagged      `json:"effects,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (r Record) MarshalJSON() ([]byte, error) {
	out := recordJSON{At: r.At}
	var err error
	if out.Event, err = tag(r.Event); err != nil {
		return nil, err
	}
	for _, e := range r.Effects {
		t, err := tag(e)
		if err != nil {
			return nil, err
		}
		out.Effects = append(out.Effects, t)
	}
	return json.Marshal(out)
}

func tag(v any) (tagged, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return tagged{}, fmt.Errorf("trace: %T: %w", v, err)
	}
	return tagged{Type: reflect.TypeOf(v).Name(), Data: b}, nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *Record) UnmarshalJSON(b []byte) error {
	var in recordJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	r.At, r.Effects = in.At, nil
	var err error
	if r.Event, err = decodeEvent(in.Event); err != nil {
		return err
	}
	for _, t := range in.Effects {
		e, err := decodeEffect(t)
		if err != nil {
			return err
		}
		r.Effects = append(r.Effects, e)
	}
	return nil
}

func decodeEvent(t tagged) (Event, error) {
	switch t.Type {
	case "Begin":
		return untag[Begin](t)
	case "End":
		return untag[End](t)
	case "Members":
		return untag[Members](t)
	case "Origins":
		return untag[Origins](t)
	case "PeerUp":
		return untag[PeerUp](t)
	case "PeerDown":
		return untag[PeerDown](t)
	case "PeerHas":
		return untag[PeerHas](t)
	case "Got":
		return untag[Got](t)
	case "Held":
		return untag[Held](t)
	case "Lost":
		return untag[Lost](t)
	case "Failed":
		return untag[Failed](t)
	case "Tick":
		return untag[Tick](t)
	}
	return nil, fmt.Errorf("trace: unknown event %.40q", t.Type)
}

func decodeEffect(t tagged) (Effect, error) {
	switch t.Type {
	case "Connect":
		return untag[Connect](t)
	case "Disconnect":
		return untag[Disconnect](t)
	case "Fetch":
		return untag[Fetch](t)
	case "CancelFetch":
		return untag[CancelFetch](t)
	case "Announce":
		return untag[Announce](t)
	case "Done":
		return untag[Done](t)
	case "Distrust":
		return untag[Distrust](t)
	case "WakeAt":
		return untag[WakeAt](t)
	}
	return nil, fmt.Errorf("trace: unknown effect %.40q", t.Type)
}

func untag[T any](t tagged) (T, error) {
	var v T
	if err := json.Unmarshal(t.Data, &v); err != nil {
		return v, fmt.Errorf("trace: %s: %w", t.Type, err)
	}
	return v, nil
}

// Replay feeds a trace to a new Peer and returns an error at the first step whose
// effects are not the recorded ones.
func Replay(cfg Config, trace []Record) error {
	p := New(cfg)
	for i, r := range trace {
		got := p.Step(r.At, r.Event)
		if len(got) == 0 && len(r.Effects) == 0 {
			continue
		}
		if !reflect.DeepEqual(got, r.Effects) {
			return fmt.Errorf("trace: step %d, %T at %s: effects %+v, recorded %+v", i, r.Event, r.At, got, r.Effects)
		}
	}
	return nil
}
