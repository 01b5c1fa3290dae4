package control

import (
	"slices"

	"github.com/starlingdeploy/starling"
)

// Leader implements httpapi.Cluster.
func (s *Server) Leader() starling.LeaderStatus {
	st := starling.LeaderStatus{Region: s.cfg.Region, Index: s.cfg.FSM.View().Index()}
	p, ok := s.cfg.Raft.Leader()
	if !ok {
		return st
	}
	st.Name, st.Addr = p.Name, p.Addr
	for _, n := range s.cfg.Members.Members() {
		if n.Name == p.Name {
			st.HTTP = n.HTTP
		}
	}
	t, _ := s.leading()
	st.Self = t != nil
	return st
}

// RegionStatuses implements httpapi.Cluster. What is behind the servers of other
// regions is known to the leader.
func (s *Server) RegionStatuses() []starling.RegionStatus {
	v := s.cfg.FSM.View()
	own := starling.RegionStatus{Name: s.cfg.Region, Local: true, Servers: []string{}}
	if p, ok := s.cfg.Raft.Leader(); ok {
		own.Leader, own.Seen = p.Name, true
	}
	for _, n := range s.cfg.Members.Members() {
		if n.Has(starling.RoleServer) {
			own.Servers = append(own.Servers, n.Addr)
			if n.Alive {
				own.ServersAlive++
			}
		}
		if !n.Alive {
			continue
		}
		if n.Has(starling.RoleCache) {
			own.Caches++
		}
		if n.Has(starling.RoleWorker) {
			own.Workers++
		}
		if m, ok := v.Machine(n.Name); n.Has(starling.RoleMachine) && !(ok && m.Cell != "") {
			own.Machines++
		}
	}
	for _, c := range s.Cells() {
		own.Machines += c.Alive
	}
	own.Lost = v.Lost(own.Name)
	own.Takeover, _ = v.Takeover(own.Name)
	out := []starling.RegionStatus{own}
	t, _ := s.leading()
	for _, name := range s.otherRegions(v) {
		st := starling.RegionStatus{Name: name, Machines: -1}
		if t != nil {
			st, _ = t.dirs.status(name, t.now())
		}
		st.Lost = v.Lost(name)
		st.Takeover, _ = v.Takeover(name)
		if len(st.Servers) == 0 {
			st.Servers = append([]string{}, s.serversOf(name, nil)...)
		}
		out = append(out, st)
	}
	return out
}

// Region implements httpapi.Cluster.
func (s *Server) Region(name string) (*starling.RegionDetail, bool) {
	v := s.cfg.FSM.View()
	all := s.RegionStatuses()
	i := slices.IndexFunc(all, func(r starling.RegionStatus) bool { return r.Name == name })
	if i < 0 {
		return nil, false
	}
	d := &starling.RegionDetail{RegionStatus: all[i], Apps: []string{}, Unseen: []*starling.Unseen{}}
	for _, a := range v.Apps() {
		if a.Home == name {
			d.Apps = append(d.Apps, a.Name)
		}
	}
	if all[i].Local {
		d.Unseen = append(d.Unseen, v.Unseen()...)
	}
	return d, true
}
