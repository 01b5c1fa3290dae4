package swarm

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood, 2014): a bijection that
// spreads every input bit over the whole word.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// hashName is FNV-1a, finished by mix. Names come from certificates, so nobody can
// choose them to collide.
func hashName(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}
