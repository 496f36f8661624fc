// Package cmd holds the commands; the tests here hold the whole module to its
// layout.
package cmd

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hullvm/hull/"

// mayImport is which packages of this module the packages of each folder may
// import; "/..." stands for all below as well. The rule of the longest folder
// that fits holds. A folder's packages may import one another, but not what has a
// rule of its own, unless it is listed. docs/architecture.md gives the reasons.
var mayImport = map[string][]string{
	"cmd/hull":            {"cmd/internal/engine/...", "vmm", "vmm/api", "vmm/jail/...", "images/...", "kvm"},
	"cmd/internal/engine": {"vmm", "vmm/jail", "vmm/snapshot", "vmm/network", "vmm/network/bridge", "vmm/network/usernet", "images/...", "guestinit/archive", "guestinit/proto"},
	"cmd/hull-vmm":        {"vmm", "vmm/jail"},
	"cmd/lab":             {"images/..."},
	// Measures the others from outside.
	"cmd/internal/bootbench": {"kvm", "vmm", "vmm/testguest"},
	"cmd/internal/iobench":   {"kvm", "vmm", "vmm/boot"},
	"cmd/internal/apibench":  {"vmm/testguest"},
	"cmd/internal/snapbench": {"kvm", "vmm", "vmm/snapshot"},
	"vmm":                    {"kvm", "devices/...", "virtio/...", "guestinit/proto", "vmm/..."},
	"vmm/memory":             {},
	"vmm/boot":               {"vmm/memory"},
	"vmm/vcpu":               {"kvm", "devices"},
	"vmm/snapshot":           {},
	"vmm/network":            {},
	"vmm/share":              {"virtio/fs"},
	"vmm/testguest":          {},
	"vmm/api":                {"vmm", "vmm/network/mmds", "vmm/snapshot"}, // decision 28
	"vmm/jail":               {"vmm", "vmm/memory", "kvm"},                // decision 36
	"kvm":                    {},
	"devices":                {},
	"virtio":                 {},
	"virtio/mmio":            {"virtio", "devices"},
	"virtio/blk":             {"virtio"},
	"virtio/net":             {"virtio"},
	"virtio/vsock":           {"virtio"},
	"virtio/rng":             {"virtio"},
	"virtio/balloon":         {"virtio"},
	"virtio/console":         {"virtio"},
	"virtio/fs":              {"virtio"},
	"virtio/pmem":            {"virtio"},
	"virtio/virtiotest":      {"virtio", "devices"},
	"guestinit":              {"guestinit/proto"},
	"guestinit/proto":        {},
	"images":                 {},
}

// rule returns the longest prefix in mayImport that path lies under.
func rule(path string) (string, bool) {
	for p := path; p != ""; p = p[:max(strings.LastIndexByte(p, '/'), 0)] {
		if _, ok := mayImport[p]; ok {
			return p, true
		}
	}
	return "", false
}

func under(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

// TestImportsKeepToTheLayout reads the direct imports of every package.
func TestImportsKeepToTheLayout(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		path := strings.TrimPrefix(fields[0], module)
		if path == "cmd" {
			continue // this package: nothing but tests
		}
		folder, ok := rule(path)
		if !ok {
			t.Errorf("%s: no rule says what it may import", path)
			continue
		}
		for _, imp := range fields[1:] {
			imp, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if own, _ := rule(imp); own == folder {
				continue
			}
			if !slices.ContainsFunc(mayImport[folder], func(a string) bool {
				tree, all := strings.CutSuffix(a, "/...")
				return imp == a || all && under(imp, tree)
			}) {
				t.Errorf("%s imports %s, which the rule for %s does not allow", path, imp, folder)
			}
		}
	}
}

// vmmDependencies are the modules that a VM process may consist of. What it does
// not link cannot slow its start, weigh in its memory or be attacked.
var vmmDependencies = []string{
	"github.com/bobuhiro11/gokvm/kvm",
	"github.com/hanwen/go-fuse/v2/", // decision 10
	"golang.org/x/sys/",
	"github.com/hullvm/hull/",
}

// TestVMProcessIsLean holds hull-vmm's import graph to an allow-list.
func TestVMProcessIsLean(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", module+"cmd/hull-vmm").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		if !slices.ContainsFunc(vmmDependencies, func(a string) bool { return strings.HasPrefix(dep+"/", a) || strings.HasPrefix(dep, a) }) {
			t.Errorf("hull-vmm links %s, which is not on its list", dep)
		}
	}
	std, err := exec.Command("go", "list", "-deps", "-f", "{{if .Standard}}{{.ImportPath}}{{end}}", module+"cmd/hull-vmm").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, heavy := range []string{"net/http", "crypto/tls", "text/template", "flag", "testing", "os/user"} {
		if slices.Contains(strings.Fields(string(std)), heavy) {
			t.Errorf("hull-vmm links package %s, which costs it start-up time and memory", heavy)
		}
	}
}
