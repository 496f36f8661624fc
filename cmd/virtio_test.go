package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testNamed finds names of tests as docs/virtio.md writes them: a package and a function, or a script.
var testNamed = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz|test|hostile)[A-Z]\\w*)`|`(vm/\\w+\\.txtar)`")

// TestVirtioTable holds docs/virtio.md to what there is: each test that it names, and a test for each of the cases.
func TestVirtioTable(t *testing.T) {
	doc, err := os.ReadFile("../docs/virtio.md")
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{} // by folder: all Go files in it
	named := 0
	for _, m := range testNamed.FindAllStringSubmatch(string(doc), -1) {
		named++
		folder, name, script := m[1], m[2], m[3]
		if script != "" {
			if _, err := os.Stat(filepath.Join("hull/testdata", script)); err != nil {
				t.Error(err)
			}
			continue
		}
		if _, ok := sources[folder]; !ok {
			sources[folder] = goFiles(t, filepath.Join("..", folder))
		}
		// A function, or a method of the suites.
		if ok, _ := regexp.MatchString(`(?m)^func (\(s Suite\) )?`+name+`\(`, sources[folder]); !ok {
			t.Errorf("docs/virtio.md names %s, which package %s does not have", name, folder)
		}
	}
	if named < 100 {
		t.Errorf("%d names of tests were found in docs/virtio.md, which has more", named)
	}
	for i := 1; i <= 30; i++ {
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d \|.*$`, i)).FindString(string(doc))
		if !testNamed.MatchString(row) {
			t.Errorf("docs/virtio.md names no test for case %d", i)
		}
	}
}

// TestEveryDeviceRunsTheSuites: what is a virtio device passes virtiotest and has its fuzz targets.
func TestEveryDeviceRunsTheSuites(t *testing.T) {
	entries, err := os.ReadDir("../virtio")
	if err != nil {
		t.Fatal(err)
	}
	devices := 0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		folder := filepath.Join("../virtio", e.Name())
		source := goFiles(t, folder)
		if !strings.Contains(source, ") Deactivate() ([]*virtio.Queue, error) {") {
			continue
		}
		devices++
		for _, want := range []string{"virtiotest.Run(t, ", "func FuzzRing(", "func FuzzRegisters("} {
			if !strings.Contains(source, want) {
				t.Errorf("%s: a device without %q in its tests", folder, want)
			}
		}
	}
	if devices < 6 {
		t.Errorf("%d devices were found, there are more", devices)
	}
}

// goFiles returns the source of all Go files in a folder.
func goFiles(t *testing.T, folder string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no Go files: %v", folder, err)
	}
	var all strings.Builder
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(source)
	}
	return all.String()
}
