//go:build race

package images

// raceEnabled: tests are ten times slower, so some do less.
const raceEnabled = true
