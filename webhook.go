package starling

import "time"

// WebhookKind says in whose form a webhook's pushes are told and signed.
type WebhookKind string

// The kinds of webhooks.
const (
	WebhookGitHub  WebhookKind = "github"  // X-Hub-Signature-256
	WebhookGitLab  WebhookKind = "gitlab"  // webhook-signature, or X-Gitlab-Token
	WebhookGeneric WebhookKind = "generic" // webhook-signature (Standard Webhooks)
)

// Bounds of webhooks and sinks.
const (
	MaxWebhooks          = 256 // of a region
	MaxSinks             = 64  // of a region
	MinHookSecretBytes   = 16
	MaxHookSecretBytes   = 1024
	MaxHookApps          = 256 // that one is restricted to
	MaxSinkURLBytes      = 2048
	MaxSinkBodyBytes     = 8 << 10 // of a template
	MaxSinkErrorBytes    = 256     // of what is kept of a delivery that failed
	MaxPushBodyBytes     = 5 << 20 // of a webhook's request
	MaxPushDeploymentsOf = 64      // apps that one push deploys
)

// Webhook lets pushes to repositories deploy the apps of its region: those whose source is
// that repository and that branch.
type Webhook struct {
	Name      string      `json:"name"`
	Kind      WebhookKind `json:"kind"`
	Apps      []string    `json:"apps,omitempty"` // only these; empty: all that are homed in the region
	CreatedAt time.Time   `json:"created_at"`
	Actor     string      `json:"actor,omitempty"`
	Sealed    []byte      `json:"sealed,omitempty"` // its secret, for the region's servers only
}

// NewWebhook is what an operator asks for.
type NewWebhook struct {
	Name   string      `json:"name" doc:"lower-case letters, digits and dashes, 63 at most; it is in the URL that pushes are sent to"`
	Kind   WebhookKind `json:"kind" doc:"github, gitlab or generic"`
	Apps   []string    `json:"apps,omitempty" doc:"names of apps that it may deploy; leave it out for all whose source is what was pushed to"`
	Secret string      `json:"secret,omitempty" doc:"16 to 1024 bytes that the other side has made, such as GitLab's signing token; leave it out to have one made"`
}

// Check refuses what is no webhook.
func (n *NewWebhook) Check() error {
	if err := CheckName("name", n.Name); err != nil {
		return err
	}
	switch n.Kind {
	case WebhookGitHub, WebhookGitLab, WebhookGeneric:
	default:
		return Invalidf("kind", "%.40q: use github, gitlab or generic", string(n.Kind))
	}
	if n.Secret != "" && (len(n.Secret) < MinHookSecretBytes || len(n.Secret) > MaxHookSecretBytes) {
		return Invalidf("secret", "%d bytes are not within %d and %d", len(n.Secret), MinHookSecretBytes, MaxHookSecretBytes)
	}
	return checkApps(n.Apps)
}

func checkApps(apps []string) error {
	if len(apps) > MaxHookApps {
		return Invalidf("apps", "%d apps, more than %d", len(apps), MaxHookApps)
	}
	for _, app := range apps {
		if err := CheckName("apps", app); err != nil {
			return err
		}
	}
	return nil
}

// IssuedWebhook shows a webhook's secret, this once.
type IssuedWebhook struct {
	Webhook
	Path   string `json:"path"` // that pushes are sent to, below any server's address
	Secret string `json:"secret"`
}

// PushOutcome is what became of a webhook's request. Either Ignored says why nothing was to
// be done, or there are deployments.
type PushOutcome struct {
	Ignored     string           `json:"ignored,omitempty"`
	Deployments []PushDeployment `json:"deployments"`
}

// PushDeployment is one app's deployment of a push.
type PushDeployment struct {
	App     string `json:"app"`
	ID      string `json:"id"`
	Created bool   `json:"created"` // false: the same push has made it before
}
