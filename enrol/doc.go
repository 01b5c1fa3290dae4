// Package enrol makes a computer a machine of a region, and keeps it one.
//
// The machine makes its key, which never leaves it, and shows a join token to any server of the
// region. It gets a certificate, which it renews at two thirds of its life, and its place in a
// cell. From then on the region's roster and the key say that it belongs: a machine whose answer
// was lost, or whose certificate expired while it was off, enrols again with its key and needs no
// token, for as long as an operator has neither removed nor revoked it.
package enrol
