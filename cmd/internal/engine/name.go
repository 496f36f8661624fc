package engine

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
)

// IDLength is the length of a container's ID: 32 random bytes in hex.
const IDLength = 64

// ShortIDLength is the length of an ID as people see it.
const ShortIDLength = 12

// newID makes an ID. Like docker's it never begins with twelve digits: such a
// short form would read as a number in YAML and in hostnames.
func newID() string {
	for {
		var b [IDLength / 2]byte
		rand.Read(b[:]) // never fails
		id := hex.EncodeToString(b[:])
		if _, err := strconv.ParseUint(id[:ShortIDLength], 10, 64); err != nil {
			return id
		}
	}
}

// ShortID is the first part of an ID, which is what is shown.
func ShortID(id string) string {
	return id[:min(len(id), ShortIDLength)]
}

func isID(s string) bool {
	return len(s) == IDLength && isHex(s)
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}

// namePattern is docker's rule for the names of containers.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// maxName keeps a name fit to be a hostname label and a file name.
const maxName = 128

// CheckName tells whether a container may have this name.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("invalid container name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-]+ is allowed", name)
	}
	if len(name) > maxName {
		return fmt.Errorf("invalid container name %q…: %d characters, at most %d are allowed", name[:20], len(name), maxName)
	}
	return nil
}

// randomName makes up a name that taken does not know: an adjective and a thing
// found at sea, and a digit when the first choices are taken.
func randomName(taken func(string) bool) string {
	for attempt := 0; ; attempt++ {
		name := pick(adjectives) + "_" + pick(nouns)
		if attempt > 5 {
			name += strconv.Itoa(attempt)
		}
		if !taken(name) {
			return name
		}
	}
}

func pick(words string) string {
	list := strings.Fields(words)
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(list))))
	if err != nil { // crypto/rand's own reader does not fail
		return list[0]
	}
	return list[n.Int64()]
}

const adjectives = `able agile airy amber ample azure balmy bold brave breezy bright brisk calm candid cheery
clear clever cosy crisp curious dapper daring deft dewy eager early earnest easy elegant even fabled fair fine
fleet fluent fond frank free fresh gallant gentle gleaming golden grand happy hardy hearty honest humble ivory
jolly jovial keen kind laughing level light lively lucid lucky lunar mellow merry mild modest neat nimble noble
patient placid playful plucky polite proud quick quiet radiant rapid ready rosy sage salty serene sharp shiny
silent silver sleek smooth snug sober solar solid spry stable starry staunch steady stellar sturdy sunny sure
swift tender tidal tidy trim true trusty upbeat urbane valiant vivid warm wise witty zesty`

const nouns = `albatross anchor atoll barge barnacle bay beacon binnacle bow breaker breeze bridge brig buoy cabin
canal capstan caravel castoff catamaran channel chart clipper coast compass coral corvette cove crane crew current
cutter deck delta dinghy dock dolphin dory drifter ebb eddy estuary ferry fjord fleet foam forecastle frigate
galleon galley gale gannet gull gunwale halyard harbor haven helm heron hull island jetty jib kayak keel ketch
lagoon lantern lighthouse lugger mainsail marina mariner mast mooring narwhal nautilus oar ocean orca osprey otter
outrigger paddle pearl pelican pennant petrel pier pilot plover pontoon port porpoise prow puffin quay raft reef
regatta rigging rudder sail schooner seal sextant shell shoal shore skiff skipper sloop sound spar spray spinnaker
squall stern strait surf swell tern tide tiller trawler trident tug turtle vessel wake walrus wave wharf windlass yacht yawl`
