package httpapi

import (
	"encoding/json"
	"net"
	"net/http"

	"github.com/starlingdeploy/starling"
)

// headerFrom carries the JSON of a starling.Origin when a server passes a request on.
const headerFrom = "X-Starling-From"

// originOf says where a request came from. Only another server is believed when it speaks of
// somebody else; what a proxy in front of the servers says is not.
func originOf(req *http.Request) starling.Origin {
	var o starling.Origin
	if id, ok := starling.IdentityFrom(req.Context()); ok && id.Has(starling.RoleServer) {
		if h := req.Header.Get(headerFrom); h != "" && len(h) <= 4*starling.MaxOriginBytes && json.Unmarshal([]byte(h), &o) == nil {
			return o.Plain()
		}
	}
	o.Addr, o.Agent = req.RemoteAddr, req.UserAgent()
	if host, _, err := net.SplitHostPort(o.Addr); err == nil {
		o.Addr = host
	}
	return o.Plain()
}

// tellOrigin tells the server to which a request is passed on where it came from.
func tellOrigin(h http.Header, o starling.Origin) {
	b, err := json.Marshal(o)
	if err != nil { // plain text: unreachable
		return
	}
	h.Set(headerFrom, string(b))
}
