package engine

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/images"
)

// CommitOptions are those of `hull commit`.
type CommitOptions struct {
	Reference string // name of the image; "" for none
	Author    string
	Message   string
	Changes   []string // Dockerfile instructions, as for an import
	Pause     bool     // the container stands still while its files are read
	Progress  images.Progress
}

// Commit makes an image of a container, which need not run: its image's layers, one with what the container has changed,
// and the container's command and environment.
func (e *Engine) Commit(ctx context.Context, ref string, o CommitOptions) (image *images.Image, err error) {
	g, err := e.enterAny(ctx, ref, false)
	if err != nil {
		return nil, err
	}
	defer g.endWith(&err)
	store, err := e.Images()
	if err != nil {
		return nil, err
	}
	base, unhold, err := store.Acquire(ctx, g.record.ImageID)
	if err != nil {
		return nil, err
	}
	defer unhold()
	config := commitConfig(g.record, base.Config.Config)
	for _, change := range o.Changes {
		if err := images.ApplyChange(&config, change); err != nil {
			return nil, err
		}
	}
	image, err = store.Commit(ctx, base, images.CommitOptions{
		Reference: o.Reference, Config: config, Author: o.Author, Message: o.Message,
		CreatedBy: g.record.Command(), Progress: o.Progress,
		BaseLayer: func(ctx context.Context, n int, take func(io.Reader) error) error {
			return g.layer(ctx, &proto.Pack{Source: proto.SourceLayer, Layer: n}, take)
		},
		Layer: func(ctx context.Context, take func(io.Reader) error) error {
			return g.layer(ctx, &proto.Pack{Source: proto.SourceChanges, Pause: o.Pause}, take)
		},
	})
	if err == nil {
		g.emit("commit", map[string]string{"comment": o.Message, "imageID": image.ID.String(), "imageRef": o.Reference})
	}
	return image, err
}

// layer has the agent send an archive, and take read it.
func (g *inside) layer(ctx context.Context, p *proto.Pack, take func(io.Reader) error) error {
	return g.receive(ctx, func(ctx context.Context, transfer string) error {
		p.Transfer = transfer
		return g.client.Pack(ctx, p)
	}, take)
}

// commitConfig is the configuration of an image that is made of a container: the image's, with what the container was asked to
// be.
func commitConfig(r *Record, image v1.Config) v1.Config {
	c, config := &r.Config, image
	if c.Entrypoint != nil {
		config.Entrypoint, config.Cmd = nil, nil
		if len(c.Entrypoint) != 1 || c.Entrypoint[0] != "" {
			config.Entrypoint = slices.Clone(c.Entrypoint)
		}
	}
	if len(c.Args) > 0 {
		config.Cmd = slices.Clone(c.Args)
	}
	config.Env = commitEnv(c.Env, image.Env)
	if c.User != "" {
		config.User = c.User
	}
	if c.WorkingDir != "" {
		config.WorkingDir = c.WorkingDir
	}
	if c.StopSignal != "" {
		config.StopSignal = c.StopSignal
	}
	config.Labels = maps.Clone(c.Labels) // which have the image's already
	config.ExposedPorts = maps.Clone(image.ExposedPorts)
	config.Volumes = maps.Clone(image.Volumes)
	return config
}

// commitEnv is the image's environment with the user's variables. A variable that was taken out is not there.
func commitEnv(user, image []string) []string {
	env := override(slices.Clone(image), user)
	return slices.DeleteFunc(env, func(entry string) bool { return !strings.Contains(entry, "=") })
}
