package trial

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Figure is a metric's value in one result.
type Figure struct {
	Metric         // with its full name
	Value  float64 `json:"value"`
}

// figures reads a scenario's metrics from a result's JSON, in the metrics' order. What the
// result leaves out has no figure.
func figures(metrics []Metric, result json.RawMessage) ([]Figure, error) {
	var root any
	if err := json.Unmarshal(result, &root); err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	var out []Figure
	for _, m := range metrics {
		walk(root, "", strings.Split(m.Name, "."), func(name string, v float64) {
			found := m
			found.Name = name
			out = append(out, Figure{found, v})
		})
	}
	return out, nil
}

// walk finds the numbers of a path, in the order of their names.
func walk(at any, name string, path []string, found func(string, float64)) {
	if len(path) == 0 {
		switch v := at.(type) {
		case float64:
			found(name, v)
		case bool:
			if v {
				found(name, 1)
			} else {
				found(name, 0)
			}
		}
		return
	}
	object, ok := at.(map[string]any)
	if !ok {
		return
	}
	below := func(key string) string { return strings.TrimPrefix(name+"."+key, ".") }
	key, field, list := strings.Cut(strings.TrimSuffix(path[0], "]"), "[")
	switch {
	case list:
		items, _ := object[key].([]any)
		for _, item := range items {
			if o, ok := item.(map[string]any); ok {
				walk(item, fmt.Sprintf("%s[%v]", below(key), o[field]), path[1:], found)
			}
		}
	case key == "*":
		for _, k := range slices.Sorted(maps.Keys(object)) {
			walk(object[k], below(k), path[1:], found)
		}
	default:
		if v, ok := object[key]; ok {
			walk(v, below(key), path[1:], found)
		}
	}
}
