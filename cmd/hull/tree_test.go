package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// treeFolders is how many folders helperTree spreads files over.
const treeFolders = 50

// helperTree makes a tree of so many files of all sizes up to twice the mean, with so many bytes in all, and a symbolic
// link in each folder. It is always the same: tree DIR FILES BYTES
func helperTree(args []string) error {
	if err := usage(args, 3, "tree DIR FILES BYTES"); err != nil {
		return err
	}
	files, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	bytes, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return err
	}
	for i := range treeFolders {
		dir := filepath.Join(args[0], treeFolder(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Symlink(fmt.Sprintf("file %d", i), filepath.Join(dir, "link")); err != nil {
			return err
		}
	}
	random, contents := rand.New(rand.NewPCG(1, 2)), numbered(bytes)
	for i := range files {
		size := bytes / int64(files-i)
		if i < files-1 {
			size = random.Int64N(2*size + 1)
		}
		bytes -= size
		if err := treeFile(filepath.Join(args[0], treeFolder(i), fmt.Sprintf("file %d", i)), io.LimitReader(contents, size)); err != nil {
			return err
		}
	}
	return nil
}

func treeFolder(i int) string { return fmt.Sprintf("%d/%d", i%treeFolders/10, i%treeFolders) }

func treeFile(path string, contents io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, contents); err != nil {
		return err
	}
	return f.Close()
}
