package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// helper names what this binary does instead of its tests: a lab is of a process of its own.
const helper = "STARLING_LAB_TEST"

func TestMain(m *testing.M) {
	do := map[string]func() error{"shaped": shaped, "muted": muted, "cut": cut, "again": again, "many": many, "serve": serve}[os.Getenv(helper)]
	if do == nil {
		os.Exit(m.Run())
	}
	if err := errors.Join(Isolate(), do()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func inLab(t *testing.T, name string) {
	if err := Possible(); err != nil {
		t.Skip(err)
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), helper+"="+name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%s", err, out)
	}
}

func TestShapedTransfer(t *testing.T) {
	inLab(t, "shaped")
	if left, err := filepath.Glob("/sys/class/net/sw0"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestMutedHostIsNotHeard(t *testing.T) { inLab(t, "muted") }

func TestCutLosesOneWay(t *testing.T) { inLab(t, "cut") }

func TestUpAgainAfterDown(t *testing.T) { inLab(t, "again") }

// Hosts reach each other, however many they are: at 33 all pairs are more than the kernel keeps
// answers of who has which address.
func TestManyHostsReachEachOther(t *testing.T) { inLab(t, "many") }

func many() error {
	const hosts = 36
	l, err := Up(hosts)
	if err != nil {
		return err
	}
	socket := make([]net.PacketConn, hosts)
	for i, h := range l.Hosts() {
		socket[i], err = onHost(h, func() (net.PacketConn, error) { return net.ListenPacket("udp", net.JoinHostPort(h.IP, servePort)) })
		if err != nil {
			return err
		}
		defer socket[i].Close()
	}
	for i := range hosts {
		for j := range hosts {
			if err := reaches(socket[i], socket[j]); err != nil {
				return fmt.Errorf("from %d to %d: %w", i, j, err)
			}
		}
	}
	return nil
}

// reaches sends until it is heard: the last hosts' links may not be up yet.
func reaches(from, to net.PacketConn) error {
	var err error
	for range 200 {
		if _, err = from.WriteTo([]byte("x"), to.LocalAddr()); err != nil {
			return err
		}
		if err = to.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		for {
			var who net.Addr
			if _, who, err = to.ReadFrom(make([]byte, 1)); err != nil {
				break
			} else if who.String() == from.LocalAddr().String() {
				return nil
			}
		}
	}
	return err
}

func again() error {
	for _, hosts := range []int{3, 2} {
		l, err := Up(hosts)
		if err != nil {
			return err
		}
		if n, err := l.Counters(); err != nil || len(n) != hosts {
			return fmt.Errorf("counters of %d of %d hosts, %w", len(n), hosts, err)
		}
		if err := l.Down(); err != nil {
			return err
		}
		if left, err := filepath.Glob("/run/netns/h*"); err != nil || len(left) > 0 {
			return fmt.Errorf("left behind: %v, %w", left, err)
		}
	}
	return nil
}

func TestUpRefuses(t *testing.T) {
	for _, hosts := range []int{-1, 0, MaxHosts + 1} {
		if _, err := Up(hosts); err == nil {
			t.Errorf("%d hosts are allowed", hosts)
		}
	}
	if _, err := Up(1); err == nil && !Isolated() {
		t.Error("a lab outside of namespaces of its own")
	}
}

const (
	servedBytes = 2_000_000
	servePort   = "9000"
)

// serve sends what it has to whoever connects.
func serve() error {
	l, err := net.Listen("tcp", ":"+servePort)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = c.Write(make([]byte, servedBytes)) // the far side counts
			_ = c.Close()
		}()
	}
}

// pair makes two hosts, of which the second serves once this returns.
func pair() (l *Lab, stop func(), err error) {
	if l, err = Up(2); err != nil {
		return nil, nil, err
	}
	me, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	server := l.Hosts()[1].Command(me)
	server.Env = append(os.Environ(), helper+"=serve")
	if err := server.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed
	}
	for range 200 {
		if _, err = fetch(l, 10*time.Second); err == nil {
			return l, stop, nil
		}
		time.Sleep(50 * time.Millisecond) // it does not listen yet
	}
	stop()
	return nil, nil, err
}

// fetch gets what the second host serves to the first.
func fetch(l *Lab, within time.Duration) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	c, err := l.Hosts()[0].Dial(ctx, "tcp", net.JoinHostPort(l.Hosts()[1].IP, servePort))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		return 0, err
	}
	return io.Copy(io.Discard, c)
}

// shaped: what goes over a link of 8 Mbit/s takes its time, and is counted.
func shaped() error {
	l, stop, err := pair()
	if err != nil {
		return err
	}
	defer stop()
	if err := l.Shape(l.Hosts()[1], 8); err != nil {
		return err
	}
	before, err := l.Counters()
	if err != nil {
		return err
	}
	began := time.Now()
	n, err := fetch(l, 10*time.Second)
	if err != nil || n != servedBytes {
		return fmt.Errorf("%d bytes: %w", n, err)
	}
	// 2 MB take 2 s, less what the bucket lets through at once.
	if took := time.Since(began); took < 1600*time.Millisecond || took > 15*time.Second {
		return fmt.Errorf("2 MB at 8 Mbit/s took %s", took)
	}
	after, err := l.Counters()
	if err != nil {
		return err
	}
	out, in := after[1].OutBytes-before[1].OutBytes, after[0].InBytes-before[0].InBytes
	for _, counted := range []int64{out, in} {
		if counted < servedBytes || counted > servedBytes*13/10 {
			return fmt.Errorf("%d bytes left one host and %d came to the other", out, in)
		}
	}
	return nil
}

// muted: a muted host hears and is not heard, until it is shaped anew.
func muted() error {
	l, stop, err := pair()
	if err != nil {
		return err
	}
	defer stop()
	if err := l.Mute(l.Hosts()[1]); err != nil {
		return err
	}
	before, err := l.Counters()
	if err != nil {
		return err
	}
	if n, err := fetch(l, 2*time.Second); err == nil {
		return fmt.Errorf("%d bytes came from a muted host", n)
	}
	after, err := l.Counters()
	if err != nil {
		return err
	}
	if out := after[1].OutBytes - before[1].OutBytes; out != 0 {
		return fmt.Errorf("%d bytes left a muted host", out)
	}
	if after[1].InBytes == before[1].InBytes {
		return errors.New("nothing came to a muted host")
	}
	if err := l.Shape(l.Hosts()[1], 0); err != nil {
		return err
	}
	if n, err := fetch(l, 10*time.Second); err != nil || n != servedBytes {
		return fmt.Errorf("%d bytes after it was muted: %w", n, err)
	}
	return nil
}

func TestRate(t *testing.T) {
	for mbit, want := range map[float64]string{0: "", 200: "rate 200000000bit ", 0.5: "rate 500000bit "} {
		if got := rate(mbit); !strings.Contains(got, want) || (want == "" && got != "") {
			t.Errorf("%v Mbit/s: %q", mbit, got)
		}
	}
}

// cut: what the one sends to the other is lost, and comes to a third; until it is mended.
func cut() error {
	l, err := Up(3)
	if err != nil {
		return err
	}
	from, to, third := l.Hosts()[0], l.Hosts()[1], l.Hosts()[2]
	all := make(map[string]net.PacketConn)
	for _, h := range l.Hosts() {
		c, err := onHost(h, func() (net.PacketConn, error) { return net.ListenPacket("udp", net.JoinHostPort(h.IP, servePort)) })
		if err != nil {
			return err
		}
		defer c.Close()
		all[h.Name] = c
	}
	comes := func(a, b Host, within time.Duration) error {
		if err := all[b.Name].SetReadDeadline(time.Now().Add(within)); err != nil {
			return err
		}
		addr, err := net.ResolveUDPAddr("udp", net.JoinHostPort(b.IP, servePort))
		if err != nil {
			return err
		}
		if _, err := all[a.Name].WriteTo([]byte("x"), addr); err != nil {
			return fmt.Errorf("%s to %s is refused, not lost: %w", a.Name, b.Name, err)
		}
		_, _, err = all[b.Name].ReadFrom(make([]byte, 1))
		return err
	}
	const soon, never = 20 * time.Second, 300 * time.Millisecond
	if err := errors.Join(comes(from, to, soon), comes(to, from, soon), l.Cut(from, l.Hosts()[:2]...)); err != nil {
		return err
	}
	if comes(from, to, never) == nil {
		return errors.New("it came through a cut")
	}
	if err := errors.Join(comes(to, from, soon), comes(from, third, soon), l.Mend(from, l.Hosts()[:2]...)); err != nil {
		return err
	}
	return comes(from, to, soon)
}
