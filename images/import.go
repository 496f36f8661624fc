package images

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ImportOptions are the options of Import.
type ImportOptions struct {
	Progress Progress // may be nil
	// Reference is the name of the new image; empty for none.
	Reference string
	// Changes are Dockerfile instructions that set the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL,
	// ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR.
	Changes []string
	// Message goes to the image's history.
	Message string
	// Platform, as "linux/amd64". Empty: linux/amd64.
	Platform string
	// Created is the time the image says it was made; zero for now.
	Created time.Time
}

// Import makes an image of one layer from the tar of a root file system,
// plain or compressed with gzip, zstd, xz or bzip2. An archive that does not
// end as a tar must is refused: it may have been cut short.
func (s *Store) Import(ctx context.Context, r io.Reader, opts ImportOptions) (*Image, error) {
	img, err := s.importImage(ctx, r, opts)
	if err != nil {
		return nil, fmt.Errorf("import an image: %w", err)
	}
	return img, nil
}

func (s *Store) importImage(ctx context.Context, r io.Reader, opts ImportOptions) (img *Image, err error) {
	platform, err := parsePlatform(opts.Platform)
	if err != nil {
		return nil, err
	}
	names, err := newNames(opts.Reference)
	if err != nil {
		return nil, err
	}
	var config v1.Config
	for _, change := range opts.Changes {
		if err := ApplyChange(&config, change); err != nil {
			return nil, err
		}
	}
	o, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = o.end(err); err != nil {
			img = nil
		}
	}()
	layer, report, err := o.importLayer(ctx, r, opts.Progress)
	if err != nil {
		return nil, err
	}
	defer layer.spool.close()
	created := opts.Created
	if created.IsZero() {
		created = time.Now()
	}
	comment := opts.Message
	if comment == "" {
		comment = "Imported from -"
	}
	raw, err := json.Marshal(v1.ConfigFile{
		Architecture: platform.Architecture,
		OS:           platform.OS,
		Variant:      platform.Variant,
		Created:      v1.Time{Time: created.UTC().Truncate(time.Second)},
		History:      []v1.History{{Created: v1.Time{Time: created.UTC().Truncate(time.Second)}, Comment: comment}},
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{layer.diffID}},
		Config:       config,
	})
	if err != nil {
		return nil, err
	}
	return o.finish(ctx, raw, []layerInput{{
		diffID: layer.diffID,
		report: report,
		fetch:  func(context.Context) (*archivedLayer, error) { return layer, nil },
	}}, names)
}

// importLayer stages the archive.
func (o *operation) importLayer(ctx context.Context, r io.Reader, progress Progress) (*archivedLayer, *reporter, error) {
	var total int64
	if f, ok := r.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			total = info.Size()
		}
	}
	report := &reporter{to: progress, id: "archive"}
	layer, err := o.storeLayer(ctx, report.reader(r, PhaseReading, total), total)
	if err != nil {
		return nil, nil, err
	}
	if !layer.tree.EndMarker() {
		layer.spool.close()
		return nil, nil, fmt.Errorf("the archive has no end mark, so it is cut short or not a tar: %w", ErrArchive)
	}
	return layer, &reporter{to: progress, id: layer.diffID.Hex}, nil
}
