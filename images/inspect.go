package images

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Details is what docker tells of an image (Docker Engine API, "ImageInspect"),
// under docker's names.
type Details struct {
	Id            string // as docker has it, for templates
	RepoTags      []string
	RepoDigests   []string
	Parent        string // always empty, as for docker's images that were not built there
	Comment       string
	Created       time.Time
	DockerVersion string // always empty
	Author        string
	Config        DetailsConfig
	Architecture  string
	Variant       string `json:",omitempty"`
	Os            string
	OsVersion     string `json:",omitempty"`
	// Size is that of the disks, in bytes.
	Size        int64
	GraphDriver GraphDriver
	RootFS      DetailsRootFS
	Metadata    Metadata
	// Descriptor describes the manifest; a built-in image has none.
	Descriptor *v1.Descriptor `json:",omitempty"`
}

// DetailsConfig is the configuration of containers of an image, with what docker
// tells of one even if it is empty.
type DetailsConfig struct {
	Hostname     string
	Domainname   string
	User         string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
	Env          []string
	Cmd          []string
	Healthcheck  *v1.HealthConfig `json:",omitempty"`
	ArgsEscaped  bool             `json:",omitempty"`
	Image        string
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	OnBuild      []string
	Labels       map[string]string
	StopSignal   string   `json:",omitempty"`
	Shell        []string `json:",omitempty"`
}

// GraphDriver tells where an image's disks are: under Disks, lowest first, separated
// by colons.
type GraphDriver struct {
	Data map[string]string
	Name string
}

// DetailsRootFS are the diffIDs of an image's layers, lowest first.
type DetailsRootFS struct {
	Type   string
	Layers []string
}

// Metadata is what the store knows of an image beside what is in it.
type Metadata struct {
	// LastTagTime is when the image came into the store.
	LastTagTime time.Time
}

// Inspect tells all about an image, which may be named as for Get.
func (s *Store) Inspect(ctx context.Context, ref string) (*Details, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	r, b, err := s.find(x, ref)
	if err != nil {
		return nil, err
	}
	if b != nil {
		return b.details(), nil
	}
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	d := img.details()
	d.Metadata.LastTagTime = r.Stored
	o, err := s.original(r)
	switch {
	case err == nil:
		manifest := o.descriptor()
		d.Descriptor = &manifest
	case errors.Is(err, ErrMissing):
		// What is left can be told all the same.
	default:
		return nil, err
	}
	return d, nil
}

func (i *Image) details() *Details {
	c := i.Config
	d := &Details{
		Id: i.ID.String(), RepoTags: []string{}, RepoDigests: []string{},
		Created: c.Created.Time, Author: c.Author,
		Architecture: c.Architecture, Variant: c.Variant, Os: c.OS, OsVersion: c.OSVersion,
		Size:   i.Size,
		RootFS: DetailsRootFS{Type: c.RootFS.Type, Layers: []string{}},
		Config: DetailsConfig{
			Hostname: c.Config.Hostname, Domainname: c.Config.Domainname, User: c.Config.User,
			AttachStdin: c.Config.AttachStdin, AttachStdout: c.Config.AttachStdout, AttachStderr: c.Config.AttachStderr,
			ExposedPorts: c.Config.ExposedPorts, Tty: c.Config.Tty, OpenStdin: c.Config.OpenStdin, StdinOnce: c.Config.StdinOnce,
			Env: c.Config.Env, Cmd: c.Config.Cmd, Healthcheck: c.Config.Healthcheck, ArgsEscaped: c.Config.ArgsEscaped,
			Image: c.Config.Image, Volumes: c.Config.Volumes, WorkingDir: c.Config.WorkingDir, Entrypoint: c.Config.Entrypoint,
			OnBuild: c.Config.OnBuild, Labels: c.Config.Labels, StopSignal: c.Config.StopSignal, Shell: c.Config.Shell,
		},
	}
	if n := len(c.History); n > 0 {
		d.Comment = c.History[n-1].Comment
	}
	for _, name := range i.References {
		d.RepoTags = append(d.RepoTags, name.Familiar())
	}
	for _, name := range i.Digests {
		d.RepoDigests = append(d.RepoDigests, name.Familiar())
	}
	for _, diffID := range c.RootFS.DiffIDs {
		d.RootFS.Layers = append(d.RootFS.Layers, diffID.String())
	}
	var disks []string
	for _, disk := range i.Disks {
		disks = append(disks, disk.Path)
	}
	d.GraphDriver = GraphDriver{Name: "hull", Data: map[string]string{"Disks": strings.Join(disks, ":")}}
	return d
}

// Step is one step of an image's making.
type Step struct {
	// ID is the image's for the last step; the zero Hash for others, whose images are not here.
	ID        v1.Hash
	Tags      []string // names of that image
	Created   time.Time
	CreatedBy string
	Comment   string
	// Size is that of the step's disk, in bytes; 0 when it has none.
	Size int64
}

// History tells how an image was made, the last step first. The steps are those of
// its configuration, and one for each layer that they leave out.
func (s *Store) History(ctx context.Context, ref string) ([]Step, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	r, img, err := s.find(x, ref)
	if err != nil {
		return nil, err
	}
	var sizes []int64
	if img == nil {
		if img, err = s.image(r); err != nil {
			return nil, err
		}
		for _, l := range r.Layers[:min(len(r.Layers), len(img.Config.RootFS.DiffIDs))] {
			sizes = append(sizes, l.DiskSize)
		}
	} else {
		for _, d := range img.Disks {
			sizes = append(sizes, d.Size)
		}
	}
	var steps []Step
	next := func() (size int64) {
		if len(sizes) > 0 {
			size, sizes = sizes[0], sizes[1:]
		}
		return size
	}
	for _, h := range img.Config.History {
		step := Step{Created: h.Created.Time, CreatedBy: h.CreatedBy, Comment: h.Comment}
		if !h.EmptyLayer {
			step.Size = next()
		}
		steps = append(steps, step)
	}
	for len(sizes) > 0 {
		steps = append(steps, Step{Created: img.Config.Created.Time, Size: next()})
	}
	slices.Reverse(steps)
	if len(steps) > 0 {
		steps[0].ID = img.ID
		for _, name := range img.References {
			steps[0].Tags = append(steps[0].Tags, name.Familiar())
		}
	}
	return steps, nil
}
