package images

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// RemoveOptions are the options of Remove.
type RemoveOptions struct {
	// Force removes an image by its ID though it has several names, and takes names from one that a container
	// uses; that image stays, without a name, as long as it is used. By ID a running container's cannot be removed.
	Force bool
}

// Removed is one line of what a removal did; one of the fields is set.
type Removed struct {
	Untagged string  // a name, as "debian:12"
	Deleted  v1.Hash // an image ID
}

// Remove takes a name away from an image, and the image itself with its last
// name. By ID it removes all names of the image at once. What it did is
// returned in docker's order. The errors are ErrNotFound, ErrAmbiguous,
// ErrInUse, ErrConflict and ErrBuiltin.
func (s *Store) Remove(ctx context.Context, ref string, opts RemoveOptions) ([]Removed, error) {
	// A mark first: if this process ends before the files are gone, the next one deletes them.
	mark, err := newTemp(s.tempDir(), markPrefix)
	if err != nil {
		return nil, fmt.Errorf("remove image %q: %w", ref, err)
	}
	defer mark.release()
	var done []Removed
	err = s.updateIndex(ctx, func(x *index) error {
		r, b, err := s.find(x, ref)
		if err != nil {
			return err
		}
		if b != nil {
			return fmt.Errorf("image %q: %w", ref, ErrBuiltin)
		}
		done, err = s.remove(x, r, ref, opts)
		return err
	})
	if err != nil {
		mark.discard()
		return nil, fmt.Errorf("remove %w", err)
	}
	if !slices.ContainsFunc(done, func(d Removed) bool { return d.Deleted != v1.Hash{} }) {
		mark.discard()
		return done, nil
	}
	mark.release()
	if err := s.sweep(); err != nil {
		return done, fmt.Errorf("remove the files of image %q: %w", ref, err)
	}
	return done, nil
}

// remove does it in the index.
func (s *Store) remove(x *index, r *record, ref string, opts RemoveOptions) ([]Removed, error) {
	var done []Removed
	untag := func(names []string) { done = append(done, untagged(names)...) }
	name, err := ParseReference(ref)
	byName := err == nil && r.has(name)
	if byName {
		gone := name.String()
		if name.Digest != "" {
			name.Tag = ""
			gone = name.String()
		}
		if others := len(r.References) + len(r.Digests) - 1; others > 0 {
			r.References = slices.DeleteFunc(r.References, func(n string) bool { return n == gone })
			r.Digests = slices.DeleteFunc(r.Digests, func(n string) bool { return n == gone })
			untag([]string{gone})
			// As in docker, the digest of a repository goes with its last tag.
			if len(repositories(r.References, name.Repository())) > 0 || name.Digest != "" {
				return done, nil
			}
			digests := repositories(r.Digests, name.Repository())
			if len(r.References) > 0 || len(r.Digests) > len(digests) {
				r.Digests = slices.DeleteFunc(r.Digests, func(n string) bool { return slices.Contains(digests, n) })
				untag(digests)
				return done, nil
			}
		}
	} else if all := append(slices.Clone(r.References), r.Digests...); !opts.Force && (len(r.References) > 1 || len(repositories(all, "")) > 1) {
		return nil, fmt.Errorf("image %q: it %w (%s); force removes them all", ref, ErrConflict, strings.Join(familiarNames(all), ", "))
	}
	used, err := s.allUsers()
	if err != nil {
		return nil, err
	}
	users := used[r.ID]
	if i := slices.IndexFunc(users, func(u User) bool { return u.Running }); i >= 0 && !byName {
		return nil, fmt.Errorf("image %q: %w by running container %s; stop that first", ref, ErrInUse, users[i].Name)
	}
	if len(users) > 0 && !opts.Force {
		var containers []string
		for _, u := range users {
			containers = append(containers, u.Name)
		}
		return nil, fmt.Errorf("image %q: %w by container %s; remove that first", ref, ErrInUse, strings.Join(containers, ", "))
	}
	untag(r.References)
	untag(r.Digests)
	r.References, r.Digests = nil, nil
	if len(users) > 0 {
		return done, nil
	}
	x.Images = slices.DeleteFunc(x.Images, func(other *record) bool { return other == r })
	return append(done, Removed{Deleted: r.ID}), nil
}

// untagged tells that names were taken away.
func untagged(names []string) []Removed {
	var done []Removed
	for _, n := range familiarNames(names) {
		done = append(done, Removed{Untagged: n})
	}
	return done
}

// familiarNames are full names as docker shows them.
func familiarNames(names []string) []string {
	var out []string
	for _, n := range names {
		if parsed, err := ParseReference(n); err == nil {
			n = parsed.Familiar()
		}
		out = append(out, n)
	}
	return out
}

// repositories returns those of names that are in a repository; without one,
// it returns the repositories of all names, each once.
func repositories(names []string, repository string) []string {
	var out []string
	for _, n := range names {
		ref, err := ParseReference(n)
		switch {
		case err != nil:
		case repository == "":
			if r := ref.FamiliarRepository(); !slices.Contains(out, r) {
				out = append(out, r)
			}
		case ref.Repository() == repository:
			out = append(out, n)
		}
	}
	return out
}

// Tag gives the image src a further name. An image that had the name loses it.
func (s *Store) Tag(ctx context.Context, src, name string) error {
	ref, err := ParseReference(name)
	if err == nil && ref.Digest != "" {
		err = fmt.Errorf("image name %q: a digest cannot be given: %w", name, ErrReference)
	}
	if err != nil {
		return fmt.Errorf("tag image %q: %w", src, err)
	}
	err = s.updateIndex(ctx, func(x *index) error {
		r, b, err := s.find(x, src)
		if err != nil {
			return err
		}
		if b != nil {
			return fmt.Errorf("image %q: %w", src, ErrBuiltin)
		}
		x.assign(r, ref.String())
		return nil
	})
	if err != nil {
		return fmt.Errorf("tag %w", err)
	}
	return nil
}
