//go:build race

package layerdisk

// raceEnabled: tests are ten times slower, so some do less.
const raceEnabled = true
