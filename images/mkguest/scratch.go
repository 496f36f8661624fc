package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/hullvm/hull/images/scratch"
)

// scratchSize is the size of an empty disk, in bytes. It is a hole, so the size
// is a limit and not a cost.
const scratchSize = 64 << 30

// scratch makes the template of an empty ext4. Its options keep small what is
// on the disk to begin with, and what the kernel does to it behind the
// container's back:
//
//   - sparse_super2 with no backups: one superblock; a lost scratch disk is not repaired but thrown away;
//   - packed_meta_blocks: the bitmaps and inode tables lie at the start, in one piece, and
//     are not written until they are used;
//   - no 64bit: group descriptors of half the size, so that half as many blocks of them
//     are read when the disk is mounted;
//   - no resize_inode: no blocks kept for a growth that will not be;
//   - a journal of 64 MiB: what is written to it once stays on the host's disk.
//
// UUID, hash seed and time are fixed, so that the template is the same bytes everywhere.
func (b *build) scratch() error {
	return b.disk("scratch.tmpl", scratchSize,
		"-i", "16384", "-m", "0", "-G", "16", "-L", "hull-scratch", "-U", "68756c6c-0000-4000-8000-000000000001", "-J", "size=64",
		"-O", "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super2,"+
			"large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
		"-E", "num_backup_sb=0,packed_meta_blocks=1,lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,"+
			"hash_seed=68756c6c-0000-4000-8000-000000000002")
}

// volumeSize is what the disk of a volume has at least, in bytes: the guest's agent has the file system grow from here to
// the disk's size.
const volumeSize = 256 << 20

// volume makes the template of a volume's disk. What is on it is to be kept, so it is an ext4 as mke2fs makes it for anybody,
// with copies of the superblock; resize_inode has it grow a thousandfold without being laid out anew.
func (b *build) volume() error {
	return b.disk("volume.tmpl", volumeSize,
		"-i", "16384", "-m", "0", "-L", "hull-volume", "-U", "68756c6c-0000-4000-8000-000000000003", "-J", "size=32",
		"-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"+
			"large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,hash_seed=68756c6c-0000-4000-8000-000000000004")
}

// disk makes a template of an empty ext4 of a size in bytes.
func (b *build) disk(name string, size int64, options ...string) error {
	image := filepath.Join(b.temp, name+".img")
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	// What the machine's own mke2fs.conf says must not matter.
	conf := filepath.Join(b.temp, "mke2fs.conf")
	if err := os.WriteFile(conf, []byte("[fs_types]\n\text4 = {\n\t\tblocksize = 4096\n\t}\n"), 0o644); err != nil {
		return err
	}
	cmd := exec.Command("mke2fs", append(append([]string{"-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256"}, options...), image)...)
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000", "MKE2FS_CONFIG="+conf, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs (Debian package e2fsprogs): %w: %s", err, bytes.TrimSpace(out))
	}
	var buf bytes.Buffer
	if err := scratch.Encode(&buf, f); err != nil {
		return err
	}
	b.say("writing %s", b.path(name))
	return renameio.WriteFile(b.path(name), buf.Bytes(), 0o644)
}
