package trial

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Computer is where a result came about; empty where the system does not say.
type Computer struct {
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	MemoryMB int64  `json:"memory_mb,omitempty"` // 10^6 bytes
	Kernel   string `json:"kernel"`
}

// ThisComputer describes this one.
func ThisComputer() Computer {
	c := Computer{Cores: runtime.NumCPU()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		c.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	c.CPU = procField("/proc/cpuinfo", "model name")
	var kb int64
	if _, err := fmt.Sscanf(procField("/proc/meminfo", "MemTotal"), "%d kB", &kb); err == nil {
		c.MemoryMB = kb * 1024 / 1e6
	}
	return c
}

// procField returns what the first line that begins with key says.
func procField(name, key string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if k, v, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// unlike lists in what two computers differ as far as figures are concerned.
func (c Computer) unlike(d Computer) []string {
	var out []string
	for _, x := range []struct{ what, a, b string }{
		{"CPU", c.CPU, d.CPU}, {"cores", fmt.Sprint(c.Cores), fmt.Sprint(d.Cores)},
		{"memory", gigabytes(c.MemoryMB), gigabytes(d.MemoryMB)}, {"kernel", c.Kernel, d.Kernel},
	} {
		if x.a != x.b {
			out = append(out, fmt.Sprintf("%s: %s, then %s", x.what, x.a, x.b))
		}
	}
	return out
}

func gigabytes(mb int64) string { return fmt.Sprintf("%.0f GB", float64(mb)/1000) }
