package agent

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Bounds of calls to systemd.
const (
	unitJobWithin  = 10 * time.Minute // to start or stop a unit, whose own time-outs are shorter
	unitLookWithin = 10 * time.Second
)

// systemd is the machine's service manager, over D-Bus (org.freedesktop.systemd1). Each call
// has a connection of its own: there are few, and a bus that was restarted is no matter.
type systemd struct {
	address string // of the bus, as D-Bus writes it; empty: the system's
}

// unitState is how a unit stands, in systemd's words.
type unitState struct {
	load, active, sub string
	result            string // of its last run: success, exit-code, signal, timeout, …
	status            int32  // exit status or signal of its main process
}

// running reports whether its processes are there.
func (s unitState) running() bool { return s.active == "active" || s.active == "reloading" }

func (s unitState) String() string {
	text := fmt.Sprintf("%s (%s)", s.active, s.sub)
	if s.load != "loaded" {
		text += ", " + s.load
	}
	switch s.result {
	case "", "success":
	case "exit-code":
		text += fmt.Sprintf(", exit status %d", s.status)
	case "signal", "core-dump":
		text += fmt.Sprintf(", %s %d", s.result, s.status)
	default:
		text += ", " + s.result
	}
	return text
}

// connect opens a connection that ends with ctx.
func (s systemd) connect(ctx context.Context) (*dbus.Conn, error) {
	var c *dbus.Conn
	var err error
	if s.address == "" {
		c, err = dbus.NewWithContext(ctx)
	} else {
		c, err = dbus.NewConnection(func() (*godbus.Conn, error) { return dialBus(ctx, s.address) })
	}
	if err != nil {
		return nil, fmt.Errorf("systemd cannot be reached over D-Bus: %w: a systemd_unit needs a machine that systemd runs, and an agent that may speak to it", err)
	}
	return c, nil
}

func dialBus(ctx context.Context, address string) (*godbus.Conn, error) {
	c, err := godbus.Dial(address, godbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err = c.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err == nil {
		err = c.Hello()
	}
	if err != nil {
		_ = c.Close() // the error before says why
		return nil, err
	}
	return c, nil
}

// job has systemd "stop" or "restart" a unit, which also starts one, and returns once that is done.
func (s systemd) job(ctx context.Context, verb, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, unitJobWithin)
	defer cancel()
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Subscribe(); err != nil { // else systemd may not tell of jobs' ends
		return fmt.Errorf("%s %s: subscribe: %w", verb, unit, err)
	}
	result := make(chan string, 1)
	const mode = "replace" // of a job that is queued for the unit
	if verb == "stop" {
		_, err = c.StopUnitContext(ctx, unit, mode, result)
	} else {
		_, err = c.RestartUnitContext(ctx, unit, mode, result)
	}
	if err != nil {
		return fmt.Errorf("%s %s: systemd: %w", verb, unit, err)
	}
	select {
	case r := <-result:
		if r == "done" {
			return nil
		}
		state, serr := lookAt(ctx, c, unit)
		if serr != nil {
			return fmt.Errorf("%s %s: systemd: %s", verb, unit, r)
		}
		return fmt.Errorf("%s %s: systemd: %s: it is %s; journalctl -u %s says more", verb, unit, r, state, unit)
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", verb, unit, ctx.Err())
	}
}

// look returns how a unit stands.
func (s systemd) look(ctx context.Context, unit string) (unitState, error) {
	ctx, cancel := context.WithTimeout(ctx, unitLookWithin)
	defer cancel()
	c, err := s.connect(ctx)
	if err != nil {
		return unitState{}, err
	}
	defer c.Close()
	return lookAt(ctx, c, unit)
}

func lookAt(ctx context.Context, c *dbus.Conn, unit string) (unitState, error) {
	var s unitState
	props, err := c.GetUnitPropertiesContext(ctx, unit)
	if err != nil {
		return s, fmt.Errorf("look at %s: systemd: %w", unit, err)
	}
	service, err := c.GetUnitTypePropertiesContext(ctx, unit, "Service")
	if err != nil {
		return s, fmt.Errorf("look at %s: systemd: %w", unit, err)
	}
	text := func(from map[string]any, name string) string { t, _ := from[name].(string); return t }
	s.load, s.active, s.sub = text(props, "LoadState"), text(props, "ActiveState"), text(props, "SubState")
	s.result = text(service, "Result")
	s.status, _ = service["ExecMainStatus"].(int32)
	return s, nil
}
