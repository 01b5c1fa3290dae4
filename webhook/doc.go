// Package webhook reads what repositories say of pushes, and who says it. It is pure: no
// clock, no network. What goes out is signed by the same scheme as comes in.
package webhook
