package proto

import (
	"context"
	"fmt"
)

// Features of an agent that lets the host look into a container.
const (
	// FeatureFiles: TypeMount, TypeStat, TypePack, TypeUnpack and TypeChanges are understood.
	FeatureFiles = "files"
	// FeatureProcesses: TypeProcesses and TypeUsage are understood.
	FeatureProcesses = "processes"
)

// Messages of the host about the files of a container. What they bring or take is on a stream connection of
// its own, which is named after the transfer and carries [StreamData].
const (
	TypeMount   Type = "mount"   // mount the root filesystem, and start nothing
	TypeStat    Type = "stat"    // tell of a file; answered by TypeFile
	TypePack    Type = "pack"    // send files as a tar
	TypeUnpack  Type = "unpack"  // unpack a tar
	TypeChanges Type = "changes" // send what has changed since the image, a frame with a Change for each file
	TypeFile    Type = "file"    // answer to stat
)

// StreamData is the stream of a transfer.
const StreamData = "data"

// Mount asks for the root filesystem of a container whose main process is not to be started, in the place of
// [Start]: the connection it comes over is the one that the guest ends with.
type Mount struct {
	Root RootFS `json:"root"`
	Time int64  `json:"time,omitempty"` // as in Start
	// Shares are there for Stat, and for Pack and Unpack of a path, where the container would have them mounted.
	Shares []Share `json:"shares,omitempty"`
	// Volumes are the same on disks.
	Volumes []Volume `json:"volumes,omitempty"`
}

// Stat asks for a file. Paths are the container's; symbolic links are followed but for the last element, if no slash
// comes after it.
type Stat struct {
	Path string `json:"path"`
}

// File tells of a file.
type File struct {
	Name    string `json:"name"`             // last element of its path
	Size    int64  `json:"size"`             // bytes
	Mode    uint32 `json:"mode"`             // bits of io/fs.FileMode
	ModTime int64  `json:"modTime"`          // ns since 1970
	Target  string `json:"target,omitempty"` // of a symbolic link: the path it leads to in the end, which need not exist
}

// Source says what a tar is made of.
type Source string

// The sources.
const (
	SourcePath    Source = "path"    // a file, and what is below it, as the container sees it
	SourceRoot    Source = "root"    // the whole root filesystem, without what is mounted in it
	SourceChanges Source = "changes" // what has changed since the image, as an OCI layer
	SourceLayer   Source = "layer"   // one layer of the image, without marks of what it deletes
)

// Pack asks for a tar.
type Pack struct {
	Transfer string `json:"transfer"`
	Source   Source `json:"source"`
	Path     string `json:"path,omitempty"` // of SourcePath, as in Stat
	// Name is what the file is called in the tar, for SourcePath: a path. "." is for what a directory has.
	Name  string `json:"name,omitempty"`
	Layer int    `json:"layer,omitempty"` // of SourceLayer: 1 is the lowest
	// Pause stops the container's processes while the tar is made.
	Pause bool `json:"pause,omitempty"`
}

// Unpack brings a tar for a directory of the container.
type Unpack struct {
	Transfer string `json:"transfer"`
	Path     string `json:"path"`
	// KeepOwners leaves files to whom they belong to in the tar; they are root's without it.
	KeepOwners bool `json:"keepOwners,omitempty"`
}

// Changes asks for a list of what has changed.
type Changes struct {
	Transfer string `json:"transfer"`
}

// Kinds of changes, as docker writes them.
const (
	KindModified = "C"
	KindAdded    = "A"
	KindDeleted  = "D"
)

// Change is a file that is not as in the image.
type Change struct {
	Kind string `json:"kind"`
	Path string `json:"path"` // absolute
}

// Mount mounts the root filesystem. The error is an [*Error] when the agent refused, as for all that follows.
func (c *Client) Mount(ctx context.Context, m *Mount) error {
	if _, _, err := c.request(ctx, Message{Type: TypeMount, Mount: m}); err != nil {
		return fmt.Errorf("mounting the root filesystem: %w", err)
	}
	return nil
}

// Stat tells of a file.
func (c *Client) Stat(ctx context.Context, path string) (File, error) {
	_, answer, err := c.request(ctx, Message{Type: TypeStat, Stat: &Stat{Path: path}})
	if err == nil && (answer.Type != TypeFile || answer.File == nil) {
		err = fmt.Errorf("unexpected answer %q", answer.Type)
	}
	if err != nil {
		return File{}, fmt.Errorf("looking for %s: %w", path, err)
	}
	return *answer.File, nil
}

// Pack has a tar sent over the stream of the transfer, and returns when all of it is on the way.
func (c *Client) Pack(ctx context.Context, p *Pack) error {
	if _, _, err := c.request(ctx, Message{Type: TypePack, Pack: p}); err != nil {
		return fmt.Errorf("archiving files of the container: %w", err)
	}
	return nil
}

// Unpack has the tar of the transfer's stream unpacked, and returns when that is done.
func (c *Client) Unpack(ctx context.Context, u *Unpack) error {
	if _, _, err := c.request(ctx, Message{Type: TypeUnpack, Unpack: u}); err != nil {
		return fmt.Errorf("unpacking into the container: %w", err)
	}
	return nil
}

// Changes has the changes sent over the stream of the transfer.
func (c *Client) Changes(ctx context.Context, transfer string) error {
	if _, _, err := c.request(ctx, Message{Type: TypeChanges, Changes: &Changes{Transfer: transfer}}); err != nil {
		return fmt.Errorf("listing changes: %w", err)
	}
	return nil
}
