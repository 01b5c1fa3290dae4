package faults

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
)

// clockSymbol is the Go runtime's pointer to the vDSO's clock_gettime, through which
// every reading of a clock goes.
const clockSymbol = "runtime.vdsoClockgettimeSym"

// Clock is the wall clock of one process. Its monotonic clock is left alone, as by a real step.
type Clock struct {
	mem *os.File
	at  int64 // of the offset, in the process's memory
}

// TakeClock puts an offset of zero into the clock of a running Go program that was linked
// statically, with its symbols. Close gives the memory back; the offset stays.
func TakeClock(pid int) (_ *Clock, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("faults: clock of process %d: %w", pid, err)
		}
	}()
	variable, err := symbol(fmt.Sprintf("/proc/%d/exe", pid), clockSymbol)
	if err != nil {
		return nil, err
	}
	low, high, err := vdso(pid)
	if err != nil {
		return nil, err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, mem.Close())
		}
	}()
	var word [8]byte
	if _, err := mem.ReadAt(word[:], variable); err != nil {
		return nil, err
	}
	original := binary.LittleEndian.Uint64(word[:])
	cave := int64(high) - caveBytes
	c := &Clock{mem: mem, at: cave + offsetAt}
	switch {
	case original == uint64(cave):
		return c, nil // taken before
	case original < low || original >= high:
		return nil, fmt.Errorf("%s is %#x, outside of the vDSO", clockSymbol, original)
	}
	old := make([]byte, caveBytes)
	if _, err := mem.ReadAt(old, cave); err != nil {
		return nil, err
	}
	if !bytes.Equal(old, make([]byte, caveBytes)) {
		return nil, errors.New("the vDSO has no free room at its end")
	}
	if _, err := mem.WriteAt(shim(original), cave); err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint64(word[:], uint64(cave))
	_, err = mem.WriteAt(word[:], variable) // an aligned word: readers see the old or the new one
	return c, err
}

// Step sets the offset to whole seconds of d.
func (c *Clock) Step(d time.Duration) error {
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], uint64(int64(d/time.Second)))
	if _, err := c.mem.WriteAt(word[:], c.at); err != nil {
		return fmt.Errorf("faults: clock: %w", err)
	}
	return nil
}

// Close ends the access to the process.
func (c *Clock) Close() error { return c.mem.Close() }

// caveBytes are taken at the end of the vDSO: code, and at offsetAt the offset.
const (
	caveBytes = 64
	offsetAt  = 56
)

// shim is a clock_gettime(edi clock, rsi timespec) that adds the offset to the seconds of clock 0.
func shim(original uint64) []byte {
	code := []byte{
		0x57,                   // push rdi
		0x56,                   // push rsi
		0x48, 0x83, 0xec, 0x08, // sub rsp, 8: calls are aligned to 16 bytes
		0x48, 0xb8, // mov rax, …
	}
	code = binary.LittleEndian.AppendUint64(code, original)
	code = append(code,
		0xff, 0xd0, // call rax
		0x48, 0x83, 0xc4, 0x08, // add rsp, 8
		0x5e,       // pop rsi
		0x5f,       // pop rdi
		0x85, 0xff, // test edi, edi
		0x75, 0x0a, // jnz over the next two
		0x48, 0x8b, 0x0d, // mov rcx, [rip + …]
	)
	code = binary.LittleEndian.AppendUint32(code, uint32(offsetAt-(len(code)+4)))
	code = append(code,
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // ret
	)
	return append(code, make([]byte, caveBytes-len(code))...)
}

// symbol returns the address of a variable of a program.
func symbol(program, name string) (int64, error) {
	f, err := elf.Open(program)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if f.Type != elf.ET_EXEC {
		return 0, errors.New("the program is not linked to fixed addresses (build it without -buildmode=pie)")
	}
	symbols, err := f.Symbols()
	if err != nil {
		return 0, fmt.Errorf("%w (build it without -ldflags=-s)", err)
	}
	for _, s := range symbols {
		if s.Name == name {
			return int64(s.Value), nil
		}
	}
	return 0, fmt.Errorf("the program has no %s: is it a Go program?", name)
}

// vdso returns where a process has the vDSO.
func vdso(pid int) (low, high uint64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(maps) {
		if !bytes.HasSuffix(bytes.TrimSpace(line), []byte("[vdso]")) {
			continue
		}
		if _, err := fmt.Sscanf(string(line), "%x-%x", &low, &high); err != nil {
			return 0, 0, fmt.Errorf("maps: %w", err)
		}
		return low, high, nil
	}
	return 0, 0, errors.New("it has no vDSO")
}
