package bench

import (
	_ "embed"
	"errors"
	"os/exec"
	"strings"
)

//go:embed libtorrent.py
var libtorrentPeer string

// Pieces of 1 MiB served it best: with 256 and 512 KiB it was slower, with 2 and 4 MiB too.
var libtorrent = rival{
	name: "libtorrent", pieceBytes: 1 << 20,
	find: func() (string, error) {
		_, version, err := libtorrentPython()
		return version, err
	},
	words: func(p post) []string {
		python, _, err := libtorrentPython()
		if err != nil {
			python = "python3" // it will say what is missing
		}
		role := "machine"
		if p.seed {
			role = "seed"
		}
		return []string{python, "-c", libtorrentPeer, p.torrent, role}
	},
}

// libtorrentPython finds an interpreter that has the bindings: Debian's has its packages',
// others on the PATH may not.
func libtorrentPython() (python, version string, err error) {
	for _, p := range []string{"/usr/bin/python3", "python3"} {
		out, err := exec.Command(p, "-c", "import libtorrent; print(libtorrent.__version__)").Output()
		if err == nil {
			return p, strings.TrimSpace(string(out)), nil
		}
	}
	return "", "", errors.New("no Python with libtorrent (Debian: apt-get install python3-libtorrent)")
}
