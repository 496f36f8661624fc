package images

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/ulikunitz/xz"
)

func xzCompressed(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestImport(t *testing.T) {
	root := layerTar(t, "./", "./bin/", "./bin/sh=#!", "./lost+found/")
	opts := ImportOptions{Reference: "rootfs:1", Changes: []string{"CMD [\"/bin/sh\"]", "ENV A=1"}, Message: "made by hand", Platform: "linux/arm64/v8", Created: when}
	var id v1.Hash
	for name, b := range map[string][]byte{"plain": root, "gzip": gzipped(t, root), "zstd": zstdCompressed(t, root), "xz": xzCompressed(t, root)} {
		s := newStore(t)
		img, err := s.Import(t.Context(), bytes.NewReader(b), opts)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c := img.Config
		if img.References[0].Familiar() != "rootfs:1" || c.Config.Cmd[0] != "/bin/sh" || c.Config.Env[0] != "A=1" || c.Architecture != "arm64" || c.Variant != "v8" ||
			!c.Created.Equal(when) || c.History[0].Comment != "made by hand" || c.RootFS.DiffIDs[0] != hashOf(root) {
			t.Errorf("%s: %+v", name, c)
		}
		if id.Hex != "" && id != img.ID {
			t.Errorf("%s: another ID", name)
		}
		id = img.ID
		checkImage(t, img)
		if g := garbage(t, s); g != nil {
			t.Errorf("%s: left behind: %q", name, g)
		}
	}
}

func TestImportWithoutAName(t *testing.T) {
	s := newStore(t)
	var rec recorder
	img, err := s.Import(t.Context(), bytes.NewReader(layerTar(t, "f=1")), ImportOptions{Progress: &rec})
	if err != nil || len(img.References) != 0 || time.Since(img.Config.Created.Time) > time.Hour {
		t.Fatalf("%+v, %v", img, err)
	}
	if p := rec.phases()["archive"]; !slices.Equal(p, []Phase{PhaseReading}) {
		t.Errorf("progress %v", rec.phases())
	}
	if p := rec.phases()[hashOf(layerTar(t, "f=1")).Hex]; !slices.Equal(p, []Phase{PhaseConverting, PhaseDone}) {
		t.Errorf("progress %v", rec.phases())
	}
}

func TestImportRefuses(t *testing.T) {
	good := layerTar(t, "f=1", "g=2")
	for name, c := range map[string]struct {
		b    []byte
		opts ImportOptions
		is   error
	}{
		"nothing":       {nil, ImportOptions{}, ErrArchive},
		"not a tar":     {[]byte(strings.Repeat("rubbish ", 100)), ImportOptions{}, ErrLayer},
		"cut":           {good[:600], ImportOptions{}, ErrArchive}, // inside the padding
		"cut in a file": {layerTar(t, "f="+strings.Repeat("x", 1000))[:700], ImportOptions{}, ErrLayer},
		"cut between":   {good[:1024], ImportOptions{}, ErrArchive},
		"cut gzip":      {gzipped(t, good)[:60], ImportOptions{}, ErrLayer},
		"cut xz":        {xzCompressed(t, good)[:60], ImportOptions{}, ErrLayer},
		"hostile":       {layerTar(t, "../f=1"), ImportOptions{}, ErrLayer},
		"bad name":      {good, ImportOptions{Reference: "A B"}, ErrReference},
		"digest":        {good, ImportOptions{Reference: "x@" + someDigest}, ErrReference},
		"bad change":    {good, ImportOptions{Changes: []string{"RUN x"}}, ErrChange},
		"bad platform":  {good, ImportOptions{Platform: "linux"}, ErrUnsupported},
	} {
		s := newStore(t)
		if _, err := s.Import(t.Context(), bytes.NewReader(c.b), c.opts); !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
		if left := files(t, s); left != nil {
			t.Errorf("%s: left behind: %q", name, left)
		}
	}
	s := newStore(t)
	broken := errors.New("broken pipe of the test")
	if _, err := s.Import(t.Context(), io.MultiReader(bytes.NewReader(gzipped(t, good)[:60]), &failing{broken}), ImportOptions{}); !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v", err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestApplyChange(t *testing.T) {
	var c v1.Config
	for _, change := range []string{
		`CMD ["/bin/sh", "-c", "x y"]`, `ENTRYPOINT /run me`, `env A=1 B="x y" C='$z' D=a\ b`, `ENV A 2 three`, `EXPOSE 80 443/tcp 53/udp 8000-8002`,
		`LABEL a=b "c d"="e f"`, `STOPSIGNAL SIGINT`, `USER 1000:1000`, `VOLUME /a "/b c"`, `VOLUME ["/d"]`, `WORKDIR /srv`, `WORKDIR app/../x`,
		`ONBUILD RUN make`, `HEALTHCHECK --interval=5s --retries=3 CMD curl -f http://localhost`,
	} {
		if err := ApplyChange(&c, change); err != nil {
			t.Errorf("%s: %v", change, err)
		}
	}
	set := func(s ...string) map[string]struct{} {
		m := make(map[string]struct{})
		for _, k := range s {
			m[k] = struct{}{}
		}
		return m
	}
	want := v1.Config{
		Cmd: []string{"/bin/sh", "-c", "x y"}, Entrypoint: []string{"/bin/sh", "-c", "/run me"},
		Env: []string{"A=2 three", "B=x y", "C=$z", "D=a b"}, ExposedPorts: set("80/tcp", "443/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp"),
		Labels: map[string]string{"a": "b", "c d": "e f"}, StopSignal: "SIGINT", User: "1000:1000", Volumes: set("/a", "/b c", "/d"), WorkingDir: "/srv/x",
		OnBuild: []string{"RUN make"}, Healthcheck: &v1.HealthConfig{Test: []string{"CMD-SHELL", "curl -f http://localhost"}, Interval: 5 * time.Second, Retries: 3},
	}
	if d := cmp.Diff(want, c); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	for _, change := range []string{`SHELL ["/bin/bash", "-c"]`, `CMD echo`, `HEALTHCHECK NONE`} {
		if err := ApplyChange(&c, change); err != nil {
			t.Errorf("%s: %v", change, err)
		}
	}
	if !slices.Equal(c.Cmd, []string{"/bin/bash", "-c", "echo"}) || c.Healthcheck.Test[0] != "NONE" {
		t.Errorf("%+v", c)
	}
	for _, change := range []string{
		"", "CMD", "CMD  ", "RUN x", "FROM y", "ENV A", "ENV A=1 B", `ENV A="x`, "ENV =x", "ENV A=1\x00", "EXPOSE 0", "EXPOSE 70000", "EXPOSE 80/icmp", "EXPOSE 9-8", "EXPOSE x",
		"LABEL a", "VOLUME relative", "SHELL /bin/sh", "SHELL []", "HEALTHCHECK curl", "HEALTHCHECK --interval=x CMD y", "HEALTHCHECK CMD", "HEALTHCHECK --retries=-1 CMD x", "HEALTHCHECK --interval=-1s CMD x",
	} {
		if err := ApplyChange(&c, change); !errors.Is(err, ErrChange) {
			t.Errorf("%q: %v", change, err)
		}
	}
}

func FuzzApplyChange(f *testing.F) {
	for _, s := range []string{`CMD ["a"]`, `ENV A="b c" D=e\ f`, `HEALTHCHECK --interval=5s CMD x`, `EXPOSE 1-3/udp`, `VOLUME ["/a"]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var c v1.Config
		if err := ApplyChange(&c, s); err != nil && !errors.Is(err, ErrChange) {
			t.Fatalf("error of another kind: %v", err)
		}
	})
}
