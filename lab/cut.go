package lab

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
)

// nobody is a hardware address that no host has.
const nobody = "02:00:00:00:00:00"

// Cut loses all that a host sends to others from now on, silently, as a broken route
// does; what they send to it still comes: a one-way partition. Safe for concurrent use
// with different hosts from.
func (l *Lab) Cut(from Host, to ...Host) error {
	return from.neighbours(to, "replace %s lladdr "+nobody+" dev eth0 nud permanent")
}

// Mend undoes Cut.
func (l *Lab) Mend(from Host, to ...Host) error {
	return from.neighbours(to, "del %s dev eth0")
}

// neighbours changes where the host believes others to be.
func (h Host) neighbours(to []Host, change string) error {
	var lines strings.Builder
	for _, o := range to {
		if o.Name != h.Name {
			fmt.Fprintf(&lines, "neigh "+change+"\n", o.IP)
		}
	}
	cmd := exec.Command("ip", "-n", h.Name, "-batch", "-")
	cmd.Stdin = strings.NewReader(lines.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("lab: links of %s: %w: %s", h.Name, err, bytes.TrimSpace(out))
	}
	return nil
}
