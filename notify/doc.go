// Package notify writes what sinks are told of deployments, in their forms, and posts it.
// When, how often and what became of it is for the caller.
package notify
