package agent

import (
	"maps"
	"strings"

	"github.com/starlingdeploy/starling"
)

// envAppDir names the directory of an app on this machine. Every process of a
// release carries it, so that what an agent that was killed left behind is known.
const envAppDir = "STARLING_APP_DIR"

// environmentOf returns what the processes of g's release see: base, then what
// Starling says of the machine and the goal.
func environmentOf(base map[string]string, node *starling.Node, g *starling.Goal, appDir string) environment {
	env := make(environment, len(base)+len(node.Tags)+8)
	maps.Copy(env, base)
	for k, v := range node.Tags {
		env["STARLING_TAG_"+envName(k)] = v
	}
	env["STARLING_APP"] = g.App
	env["STARLING_DEPLOYMENT"] = g.Deployment
	env["STARLING_NODE"] = node.Name
	env["STARLING_REGION"] = node.Region
	env["STARLING_ZONE"] = node.Zone
	env["STARLING_RACK"] = node.Rack
	env["STARLING_ARTIFACT"] = g.Artifact.String()
	env["STARLING_GENERATION"] = g.Generation.String()
	env[envAppDir] = appDir
	return env
}

// envName makes a tag's name fit for the name of a variable.
func envName(tag string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, tag)
}
