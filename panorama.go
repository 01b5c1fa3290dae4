package starling

// CacheStatus is a cache of a region and what it last said of itself.
type CacheStatus struct {
	Name  string `json:"name"`
	Zone  string `json:"zone,omitempty"`
	Addr  string `json:"addr"`
	Alive bool   `json:"alive"`
	// Heard is false while the cache has not spoken to this leader: then what follows is not known.
	Heard     bool  `json:"heard"`
	SilentMS  int64 `json:"silent_ms"` // since its last report
	UsedBytes int64 `json:"used_bytes"`
	MaxBytes  int64 `json:"max_bytes"` // that it may use
	Artifacts int   `json:"artifacts"` // wanted of it
	Pulling   int   `json:"pulling"`   // of these, not complete yet
	WANBytes  int64 `json:"wan_bytes"` // fetched from other regions for them
	OutBytes  int64 `json:"out_bytes"` // sent to machines for them
	// Problem is why it cannot complete one of them, for people.
	Problem string `json:"problem,omitempty"`
}

// MaxCurvePoints bounds a deployment's curve: a longer one loses every second point.
const MaxCurvePoints = 240

// CurvePoint is how much of an artifact the machines of all regions held at one moment.
type CurvePoint struct {
	AtMS     int64    `json:"at_ms"` // after the deployment's creation
	Progress Progress `json:"progress"`
}
