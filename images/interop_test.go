package images

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestInterop: archives and registries as other programs fill them. skopeo
// stands for docker, podman and buildah, whose formats it writes.
func TestInterop(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not installed")
	}
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.json")
	if err := os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	source := "oci:" + layoutDir(t, testImage(t), named) + ":example.com/app:1"
	copyTo := func(t *testing.T, destination string, flags ...string) {
		t.Helper()
		args := append([]string{"--policy", policy, "--tmpdir", dir, "copy", "--dest-tls-verify=false"}, flags...)
		if out, err := exec.Command(skopeo, append(args, source, destination)...).CombinedOutput(); err != nil {
			t.Fatalf("skopeo copy to %s: %v\n%s", destination, err, out)
		}
	}
	reg := newRegistry(t)
	for name, c := range map[string]struct {
		destination, path, ref string
		flags                  []string
	}{
		"docker-archive": {"docker-archive:" + dir + "/docker.tar:example.com/app:1", dir + "/docker.tar", "example.com/app:1", nil},
		"oci-archive":    {"oci-archive:" + dir + "/oci.tar:example.com/app:1", dir + "/oci.tar", "example.com/app:1", nil},
		"oci":            {"oci:" + dir + "/oci:example.com/app:1", dir + "/oci", "example.com/app:1", nil},
		"oci, zstd":      {"oci:" + dir + "/zstd:example.com/app:1", dir + "/zstd", "example.com/app:1", []string{"--dest-compress-format", "zstd"}},
		"registry":       {"docker://" + reg.host + "/app:oci", "", reg.host + "/app:oci", []string{"--format", "oci"}},
		"registry, v2s2": {"docker://" + reg.host + "/app:v2s2", "", reg.host + "/app:v2s2", []string{"--format", "v2s2"}},
		"registry, zstd": {"docker://" + reg.host + "/zstd:1", "", reg.host + "/zstd:1", []string{"--format", "oci", "--dest-compress-format", "zstd"}},
	} {
		t.Run(name, func(t *testing.T) {
			copyTo(t, c.destination, c.flags...)
			s := newStore(t)
			if c.path == "" {
				mustPull(t, s, c.ref)
			} else if _, err := s.LoadPath(t.Context(), c.path, LoadOptions{}); err != nil {
				t.Fatal(err)
			}
			got, err := s.Get(t.Context(), c.ref)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Disks) != 3 || got.Config.Config.Cmd[0] != "/bin/sh" {
				t.Errorf("%+v", got)
			}
			checkImage(t, got)
		})
	}
}
