// Package httpapi is the HTTP API under /v1: handlers, OpenAPI, server-sent events
// and bearer-token authorization.
package httpapi
