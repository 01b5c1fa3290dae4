package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// MaxHosts bounds a lab: one bridge takes no more than 1,024 ports, and the kernel
// keeps 0.4 kB for each host at each other one.
const MaxHosts = 500

// Shaping: what a queue holds (tbf's latency) and how much may pass at once. A token bucket
// smaller than a super-packet of 64 KiB would have the kernel cut every one of them.
const (
	queueFor   = "60ms"
	burstBytes = "256kb"
)

// Lab is a switch with hosts. Its methods are for one goroutine, but for Counters.
type Lab struct{ hosts []Host }

// Host is a network namespace with one address.
type Host struct {
	Name string
	IP   string
	mac  string
	port string // the switch's end of its cable
}

func hostAt(i int) Host {
	return Host{
		Name: fmt.Sprintf("h%d", i), port: fmt.Sprintf("p%d", i),
		IP: fmt.Sprintf("10.77.%d.%d", i/250, 1+i%250), mac: fmt.Sprintf("02:4d:00:00:%02x:%02x", i>>8, i&0xff),
	}
}

// Up makes hosts, unshaped, beside this process, which must have come through Isolate.
func Up(hosts int) (*Lab, error) {
	switch {
	case hosts < 1 || hosts > MaxHosts:
		return nil, fmt.Errorf("lab: %d hosts, want 1 to %d", hosts, MaxHosts)
	case !Isolated():
		return nil, errors.New("lab: not isolated")
	}
	if _, err := os.Stat("/run/netns"); err != nil { // made by Isolate
		return nil, fmt.Errorf("lab: %w", err)
	}
	l := &Lab{}
	if err := run(
		"mount -t tmpfs none /run/netns", // names of namespaces are ours alone
		"ip link set lo up",
		"ip link add sw0 type bridge",
		"ip addr add 10.77.255.254/16 dev sw0",
		"ip link set sw0 up",
	); err != nil {
		return nil, err
	}
	for i := range hosts {
		l.hosts = append(l.hosts, hostAt(i))
	}
	for _, h := range l.hosts {
		if err := run("ip netns add " + h.Name); err != nil {
			return nil, err
		}
		cable := fmt.Sprintf("link add eth0 address %s type veth peer name %s netns %d", h.mac, h.port, os.Getpid())
		lines := append([]string{cable, "addr add " + h.IP + "/16 dev eth0", "link set lo up", "link set eth0 up"}, h.knows(l.hosts)...)
		if err := batch("ip -n "+h.Name, lines); err != nil {
			return nil, err
		}
		if err := run("ip link set " + h.port + " master sw0 up"); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Down removes the hosts, on which nothing may run any more, so that another Up can follow.
func (l *Lab) Down() error {
	var errs []error
	for _, h := range l.hosts {
		// The cable first: with its namespace it would go some time later.
		errs = append(errs, run("ip link del "+h.port, "ip netns del "+h.Name))
	}
	return errors.Join(append(errs, run("ip link del sw0", "umount /run/netns"))...)
}

// Hosts returns the hosts in order.
func (l *Lab) Hosts() []Host { return l.hosts }

// Shape bounds a host's link to mbit Mbit/s in each direction; 0: not at all.
func (l *Lab) Shape(h Host, mbit float64) error {
	return l.ShapeBoth(h, mbit, mbit)
}

// ShapeBoth bounds a host's link to up Mbit/s from it and down to it; 0: not at all.
func (l *Lab) ShapeBoth(h Host, up, down float64) error {
	return errors.Join(qdisc("ip netns exec "+h.Name+" tc", "eth0", rate(up)), qdisc("tc", h.port, rate(down)))
}

// Mute drops all that a host sends, and lets in what is sent to it: a one-way partition.
func (l *Lab) Mute(h Host) error {
	// A bucket that is smaller than any packet lets none through.
	return qdisc("ip netns exec "+h.Name+" tc", "eth0", "tbf rate 8kbit burst 10 limit 10")
}

func rate(mbit float64) string {
	if mbit == 0 {
		return ""
	}
	return fmt.Sprintf("tbf rate %.0fbit burst %s latency %s", mbit*1e6, burstBytes, queueFor)
}

func qdisc(tc, dev, discipline string) error {
	if discipline == "" {
		// It fails where there is none to delete.
		_ = run(tc + " qdisc del dev " + dev + " root")
		return nil
	}
	return run(tc + " qdisc replace dev " + dev + " root " + discipline)
}

// Prefix returns the words that, put before a command line, run it on the host.
func (h Host) Prefix() []string { return []string{"ip", "netns", "exec", h.Name} }

// Command prepares a program to run on the host.
func (h Host) Command(name string, args ...string) *exec.Cmd {
	words := append(h.Prefix(), name)
	return exec.Command(words[0], append(words[1:], args...)...)
}

// Traffic is what has passed a host's link since it was made, headers included.
type Traffic struct{ InBytes, OutBytes int64 }

// Counters returns the traffic of all hosts, in their order.
func (l *Lab) Counters() ([]Traffic, error) {
	b, err := os.ReadFile("/proc/thread-self/net/dev") // not the process's: its first thread may be in a Dial
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	ports := map[string]Traffic{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		name, rest, ok := strings.Cut(strings.TrimSpace(lines.Text()), ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 16 {
			continue
		}
		received, err1 := strconv.ParseInt(f[0], 10, 64) // by the switch
		sent, err2 := strconv.ParseInt(f[8], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("lab: counters of %s: %w", name, err)
		}
		ports[name] = Traffic{InBytes: sent, OutBytes: received}
	}
	out := make([]Traffic, len(l.hosts))
	for i, h := range l.hosts {
		out[i] = ports[h.port]
	}
	return out, nil
}

// run runs command lines one after the other.
func run(lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("lab: %s: %w: %s", line, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// batch has iproute2's command carry out many lines at once.
func batch(command string, lines []string) error {
	words := append(strings.Fields(command), "-batch", "-")
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("lab: %s: %w: %s", command, err, bytes.TrimSpace(out))
	}
	return nil
}
