//go:build !race

package layerdisk

const raceEnabled = false
