// Package artifact turns a tree of files into a manifest and content-defined
// chunks, signs and verifies manifests, and lays artifacts out on disk in place.
//
// Pack cuts the concatenated content of a tree's regular files by content, so that
// a new version shares most chunks with the one before. Sign and Verify put the
// manifest's exact bytes into a DSSE envelope that carries the signer's certificate
// chain. Tree holds a release on a machine: chunks are written where the files will
// stand, read back from there for peers, and cloned from other releases.
package artifact
