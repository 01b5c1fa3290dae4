package control

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// metrics tells prometheus how the deployments homed here are doing.
type metrics struct {
	s                    *Server
	registry             prometheus.Registerer // nil: none
	ended                *prometheus.CounterVec
	enrolments, renewals *prometheus.CounterVec
	oldest               *prometheus.Desc
	phases               *prometheus.Desc
	leader               *prometheus.Desc
	spare                *prometheus.Desc
	level                *prometheus.Desc
	history              *prometheus.Desc
	cells                *prometheus.Desc
	machines             *prometheus.Desc
	reports              *prometheus.Desc
	silence              *prometheus.Desc
}

func newMetrics(s *Server, registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		s: s, registry: registry,
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_deployments_ended_total",
			Help: "Deployments that this server, as the leader, saw end, by terminal phase.",
		}, []string{"phase"}),
		enrolments: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_enrolments_total",
			Help: "Machines that came to this server to enrol, by result: enrolled, busy, refused, failed.",
		}, []string{"result"}),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_renewals_total",
			Help: "Machines that came to this server for a new certificate, by result: renewed, refused, failed.",
		}, []string{"result"}),
		oldest: prometheus.NewDesc("starling_oldest_nonterminal_seconds",
			"Age of the oldest deployment homed here that has not ended; 0 if there is none.", nil, nil),
		phases: prometheus.NewDesc("starling_deployments",
			"Deployments homed here that have not ended, by phase.", []string{"phase"}, nil),
		leader: prometheus.NewDesc("starling_leader", "1 if this server leads its region.", nil, nil),
		spare: prometheus.NewDesc("starling_server_failure_tolerance",
			"Servers of this region that may fail before nobody leads; from the leader only.", nil, nil),
		level: prometheus.NewDesc("starling_level_in_use",
			"Level of commands that every server of this region must be able to apply.", nil, nil),
		history: prometheus.NewDesc("starling_deployments_kept",
			"Ended deployments that this region keeps, by home and where: record or archive.", []string{"home", "where"}, nil),
		cells: prometheus.NewDesc("starling_cells",
			"Cells of this region's machines, by state: heard, or silent for 10 s; from the leader only.", []string{"state"}, nil),
		machines: prometheus.NewDesc("starling_machines",
			"Machines in cells, by state: alive, or missing in what the cells report; from the leader only.", []string{"state"}, nil),
		reports: prometheus.NewDesc("starling_cell_reports_total",
			"Reports of cells that this leader has taken in its term; from the leader only.", nil, nil),
		silence: prometheus.NewDesc("starling_cell_silence_seconds",
			"Since the last report of the cell that has been quiet for longest; from the leader only.", nil, nil),
	}
	for _, p := range []starling.Phase{starling.PhaseSucceeded, starling.PhaseFailed, starling.PhaseCancelled} {
		m.ended.WithLabelValues(string(p))
	}
	if registry == nil {
		return m, nil
	}
	if err := registry.Register(m); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) close() {
	if m.registry != nil {
		m.registry.Unregister(m)
	}
}

// committed counts a deployment that a command has just ended.
func (m *metrics) committed(c *raftfsm.Command, r *raftfsm.Result) {
	if r.Err == nil && r.Deployment != nil && r.Deployment.Phase.Terminal() && c.Type != raftfsm.TypeSubmit {
		m.ended.WithLabelValues(string(r.Deployment.Phase)).Inc()
	}
}

// enrolled counts a machine that came to enrol.
func (m *metrics) enrolled(err error) { m.enrolments.WithLabelValues(outcome(err, "enrolled")).Inc() }

// renewed counts a machine that came for a new certificate.
func (m *metrics) renewed(err error) { m.renewals.WithLabelValues(outcome(err, "renewed")).Inc() }

func outcome(err error, well string) string {
	var busy *starling.BusyError
	switch {
	case err == nil:
		return well
	case errors.As(err, &busy):
		return "busy"
	case rpc.ProblemOf(err).Status < http.StatusInternalServerError:
		return "refused"
	}
	return "failed"
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	m.ended.Describe(out)
	m.enrolments.Describe(out)
	m.renewals.Describe(out)
	out <- m.oldest
	out <- m.phases
	out <- m.leader
	out <- m.spare
	out <- m.level
	out <- m.history
	out <- m.cells
	out <- m.machines
	out <- m.reports
	out <- m.silence
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.ended.Collect(out)
	m.enrolments.Collect(out)
	m.renewals.Collect(out)
	counts := map[starling.Phase]int{
		starling.PhaseQueued: 0, starling.PhaseBuilding: 0, starling.PhaseReplicating: 0,
		starling.PhaseStaging: 0, starling.PhaseAwaitingApproval: 0, starling.PhaseRollingOut: 0,
	}
	now, age := m.s.cfg.Now(), 0.0
	t, _ := m.s.leading()
	if t != nil {
		now = t.now() // by which deployments are stamped
	}
	v := m.s.cfg.FSM.View()
	for _, d := range v.Active() {
		counts[d.Phase]++
		age = max(age, now.Sub(d.CreatedAt).Seconds())
	}
	for p, n := range counts {
		out <- prometheus.MustNewConstMetric(m.phases, prometheus.GaugeValue, float64(n), string(p))
	}
	out <- prometheus.MustNewConstMetric(m.oldest, prometheus.GaugeValue, age)
	out <- prometheus.MustNewConstMetric(m.level, prometheus.GaugeValue, float64(v.Level()))
	for _, name := range v.Homes() {
		h := v.HistoryOf(name)
		out <- prometheus.MustNewConstMetric(m.history, prometheus.GaugeValue, float64(h.Ended), name, "record")
		out <- prometheus.MustNewConstMetric(m.history, prometheus.GaugeValue, float64(h.Archived), name, "archive")
	}
	leads := 0.0
	if t != nil {
		leads = 1
		m.collectCells(out, t.cells.sums(now))
	}
	out <- prometheus.MustNewConstMetric(m.leader, prometheus.GaugeValue, leads)
	if h, err := m.s.cfg.Raft.Health(); err == nil { // else it does not lead
		out <- prometheus.MustNewConstMetric(m.spare, prometheus.GaugeValue, float64(h.FailureTolerance))
	}
}

func (m *metrics) collectCells(out chan<- prometheus.Metric, s cellSums) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(m.cells, float64(s.cells-s.silent), "heard")
	gauge(m.cells, float64(s.silent), "silent")
	gauge(m.machines, float64(s.alive), "alive")
	gauge(m.machines, float64(s.machines-s.alive), "missing")
	gauge(m.silence, s.oldest.Seconds())
	out <- prometheus.MustNewConstMetric(m.reports, prometheus.CounterValue, float64(s.heard))
}
