// Package lab makes hosts out of network namespaces: a switch, and hosts beside it
// whose links can be shaped, so that real programs can be measured as on a network of
// their own. It needs Linux and root, and iproute2's ip and tc.
//
// A process enters with [Isolate], which runs it again inside network and mount
// namespaces of its own: that process is the switch. All that it makes, hosts
// included, is gone when it and its children have ended, however they end.
package lab
