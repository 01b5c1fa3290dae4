package lab

// nobody is a hardware address that no host has.
const nobody = "02:00:00:00:00:00"

// Cut loses all that a host sends to others from now on, silently, as a broken route
// does; what they send to it still comes: a one-way partition. Safe for concurrent use
// with different hosts from.
func (l *Lab) Cut(from Host, to ...Host) error {
	lost := make([]Host, len(to))
	for i, h := range to {
		h.mac = nobody
		lost[i] = h
	}
	return batch("ip -n "+from.Name, from.knows(lost))
}

// Mend undoes Cut.
func (l *Lab) Mend(from Host, to ...Host) error {
	return batch("ip -n "+from.Name, from.knows(to))
}

// knows are the lines of ip by which a host is told of others. So it never asks for their
// hardware addresses: the kernel keeps 1,024 answers at most for all namespaces together
// (net.ipv4.neigh.default.gc_thresh3), and those that do not fit are not reached.
func (h Host) knows(others []Host) []string {
	var lines []string
	for _, o := range others {
		if o.Name != h.Name {
			lines = append(lines, "neigh replace "+o.IP+" lladdr "+o.mac+" dev eth0 nud permanent")
		}
	}
	return lines
}
