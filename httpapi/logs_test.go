package httpapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

// sections is a backend whose log has several sections.
type sections struct {
	*backend
	texts map[string]string
	lost  map[string]string
	limit int // bytes of a chunk
}

func (s *sections) Log(_ context.Context, _ string, at starling.LogPlace) (starling.LogNews, error) {
	news := starling.LogNews{Done: true}
	for _, name := range []string{"build.1", "build.2", "post.deployment"} {
		c := starling.LogChunk{Section: name, Offset: at[name], Lost: s.lost[name]}
		if rest := s.texts[name][min(int(at[name]), len(s.texts[name])):]; rest != "" {
			c.Data = []byte(rest[:min(len(rest), s.limit)])
			news.Done = news.Done && len(rest) <= s.limit
		}
		if len(c.Data) > 0 || c.Lost != "" {
			news.Chunks = append(news.Chunks, c)
		}
	}
	return news, nil
}

// A log's sections come each in full and whatever the pieces are cut into, characters stay whole; a
// section that is lost says so once, at the end.
func TestLogOfSections(t *testing.T) {
	b := newBackend("r1")
	d := fixture(t, b)
	texts := map[string]string{"build.2": strings.Repeat("héllo, wörld ☂\n", 40) + "\xff no newline", "post.deployment": "☂☂☂"}
	srv := serve(t, Config{Backend: &sections{b, texts, map[string]string{"build.1": "was lost"}, 25}})
	c, err := client.New(client.Config{Addr: srv.URL, HTTP: srv.Client()})
	if err != nil {
		t.Fatal(err)
	}
	got, lost := map[string]string{}, []string{}
	at := starling.LogPlace{}
	take := func(k starling.LogChunk) error {
		if k.Lost != "" {
			lost = append(lost, k.Section+" "+k.Lost)
		}
		if !utf8.Valid(k.Data) {
			t.Errorf("a piece that is no text: %q", k.Data)
		}
		got[k.Section] += string(k.Data)
		return nil
	}
	if err := c.Log(t.Context(), d.ID, at, true, take); err != nil {
		t.Fatal(err)
	}
	for name, text := range texts {
		if want := strings.ToValidUTF8(text, "�"); got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if !slices.Equal(lost, []string{"build.1 was lost"}) {
		t.Errorf("lost: %q", lost)
	}
	if want := fmt.Sprintf("build.2=%d,post.deployment=9", len(texts["build.2"])); at.String() != want {
		t.Errorf("at %s, want %s", at, want)
	}
	got = map[string]string{}
	at = starling.LogPlace{"build.2": int64(len(texts["build.2"])), "post.deployment": 3}
	if err := c.Log(t.Context(), d.ID, at, false, take); err != nil || got["post.deployment"] != "☂☂" || got["build.2"] != "" {
		t.Errorf("from the middle: %q, %v", got, err)
	}
	for _, bad := range []string{"x", "build.1=-1", "A=1", strings.Repeat("a=1,", 5000)} {
		h := map[string]string{"Accept": "text/event-stream", "Last-Event-ID": bad}
		if res, body := requestWith(t, srv, "/v1/deployments/"+d.ID+"/logs", h); res.StatusCode != 400 || !strings.Contains(body, "Last-Event-ID") {
			t.Errorf("%.20q: %s %s", bad, res.Status, body)
		}
	}
}

func requestWith(t *testing.T, srv *httptest.Server, path string, header map[string]string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}
