package raftnode

import (
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics tells prometheus how the disk is.
type metrics struct {
	n                                  *Node
	diskFree, failed, logSize, logFree *prometheus.Desc
}

// Metrics returns a collector of what this server's Raft has on disk. Where a value
// cannot be told it is left out, and logged by who keeps the disk.
func (n *Node) Metrics() prometheus.Collector {
	return &metrics{
		n:        n,
		diskFree: prometheus.NewDesc("starling_disk_free_bytes", "Bytes that are free on the disk of this server's Raft.", nil, nil),
		failed:   prometheus.NewDesc("starling_disk_failed", "1 if a write or a read failed: Raft has stopped and the process ends.", nil, nil),
		logSize:  prometheus.NewDesc("starling_raft_log_bytes", "Size of raft.db, which grows to its largest use and is made smaller at a start.", nil, nil),
		logFree:  prometheus.NewDesc("starling_raft_log_free_bytes", "Bytes of raft.db in free pages, which are used again.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.diskFree, m.failed, m.logSize, m.logFree} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	failed := 0.0
	if m.n.Err() != nil {
		failed = 1
	}
	gauge(m.failed, failed)
	if s, err := m.n.conf.space(m.n.conf.DataDir); err == nil {
		gauge(m.diskFree, float64(s.freeBytes))
	}
	if info, err := os.Stat(filepath.Join(m.n.conf.DataDir, boltFile)); err == nil {
		gauge(m.logSize, float64(info.Size()))
	}
	gauge(m.logFree, float64(m.n.stores.bolt.Stats().FreePageN*os.Getpagesize()))
}
