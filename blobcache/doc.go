// Package blobcache stores chunks and signed manifests, serves and fetches them over
// a small binary protocol, and replicates them among the caches of a region and
// between regions.
//
// A Store keeps blobs on disk or in memory. A Server serves a Store, or any Source,
// to peers whose identity is verified; a Client fetches and uploads; a Region uses
// all caches of a region as one. A Replicator brings what the region's servers want
// to this cache: about one copy of a chunk crosses each link between regions.
//
// Chunks are checked against their digest when they come in, when they are first
// read after a start, and by whoever receives them. Manifests are checked by
// signature, by whoever receives them.
package blobcache
