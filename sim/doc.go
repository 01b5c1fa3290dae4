// Package sim runs whole swarms on virtual time: the production brains of package
// swarm on simulated links, with slow machines, liars and churn. A run is a function
// of its Config: the same Config gives the same Result, event for event.
//
// Links are modelled by quanta. A machine's uplink sends UploadSlots chunks at once, a
// quantum of each in turn; the quanta then queue at the receiver's downlink; a sender
// stops when its window to one receiver is full, so that a crowded receiver does not
// waste the sender's uplink. That is close to what congestion control gives in a
// network whose core is not the bottleneck; where it is, Config.RackRate and ZoneRate
// put a first-come link between a rack and its zone, and a zone and the others. CPU and
// disk cost nothing here.
//
// A Fleet is many such worlds, one for each cell of each region, after a first one of the
// caches alone, which tells when each chunk is where.
package sim
