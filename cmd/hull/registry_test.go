package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// helperRegistry serves a registry until it is killed, and prints its address:
// registry [BYTES [USER:PASSWORD]]
//
// With BYTES it breaks off each layer's transfer after so many, either way, as long
// as the file "midway" exists in the current directory. With a user it asks for the
// password.
func helperRegistry(args []string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if len(args) > 0 {
		limit, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		handler = breakOff(handler, limit)
	}
	if len(args) > 1 {
		handler = ask(handler, args[1])
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, handler)
}

// ask wants the user's name and password with each request.
func ask(next http.Handler, login string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user+":"+password != login {
			w.Header().Set("WWW-Authenticate", `Basic realm="e2e"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// breakOff ends the requests and answers that carry blobs after limit bytes.
func breakOff(next http.Handler, limit int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := os.Stat("midway")
		switch {
		case err != nil || !strings.Contains(r.URL.Path, "/blobs/"):
		case r.Method == http.MethodGet:
			w = &limited{w, limit}
		case r.Method == http.MethodPatch && r.ContentLength > int64(limit):
			io.CopyN(io.Discard, r.Body, int64(limit))
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
}

type limited struct {
	http.ResponseWriter
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		l.ResponseWriter.Write(p[:l.left])
		panic(http.ErrAbortHandler) // net/http's way to break a connection
	}
	l.left -= len(p)
	return l.ResponseWriter.Write(p)
}

// helperLayers makes an image of five layers from the tar of a root filesystem,
// pushes it, and lists what docker's rules make of it: layers TAR NAME OUT. The
// layers above the first change, delete, hide and bring back.
func helperLayers(args []string) error {
	if err := usage(args, 3, "layers TAR NAME OUT"); err != nil {
		return err
	}
	base, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	datas := [][]byte{base}
	for _, members := range changes() {
		data, err := archive(members...)
		if err != nil {
			return err
		}
		datas = append(datas, data)
	}
	t := make(tree)
	for _, data := range datas {
		if err := t.apply(bytes.NewReader(data)); err != nil {
			return err
		}
	}
	if err := push(args[1], datas...); err != nil {
		return err
	}
	return writeListing(t, args[2])
}

// helperPush pushes an image of one layer: push TAR NAME
func helperPush(args []string) error {
	if err := usage(args, 2, "push TAR NAME"); err != nil {
		return err
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	return push(args[1], data)
}

func push(to string, datas ...[]byte) error {
	var layers []v1.Layer
	for _, data := range datas {
		layer, err := layerOf(data)
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return err
	}
	if image, err = mutate.ConfigFile(image, configOf(image)); err != nil {
		return err
	}
	ref, err := name.ParseReference(to, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(ref, image)
}

// changes are the layers on top of the root filesystem.
func changes() [][]member {
	owner := func(uid, gid int) func(*tar.Header) { return func(h *tar.Header) { h.Uid, h.Gid = uid, gid } }
	mode := func(m int64) func(*tar.Header) { return func(h *tar.Header) { h.Mode = m } }
	return [][]member{
		{ // adds and changes
			directory("srv/data"), file("srv/data/a", "a of 2"), file("srv/data/b", "b of 2"),
			directory("srv/data/sub"), file("srv/data/sub/d", "d of 2"),
			directory("srv/hide"), file("srv/hide/x", "x of 2"), directory("srv/hide/y"), file("srv/hide/y/z", "z of 2"),
			file("etc/motd", "motd of 2"), file("usr/local/bin/tool", "#!/bin/sh\necho tool\n").with(mode(0o755)),
			link(tar.TypeSymlink, "srv/turns", "data/a"), link(tar.TypeLink, "srv/hard", "srv/data/a"),
			file("srv/owned", "mine").with(owner(1000, 1001)), file("srv/setuid", "s").with(mode(0o4755)),
		},
		{ // deletes files and directories
			file("srv/data/.wh.b", ""), file("etc/.wh.debian_version", ""), file("usr/share/.wh.doc", ""),
			file("srv/.wh.nothing", ""),
		},
		{ // hides what is in a directory, turns a link into a directory and a directory into a file
			directory("srv/hide"), file("srv/hide/.wh..wh..opq", ""), file("srv/hide/new", "new of 4"),
			directory("srv/turns"), file("srv/turns/x", "x of 4"), file("srv/data/sub", "a file of 4"),
		},
		{ // brings back, and reaches down with a hard link
			file("srv/data/b", "b of 5"), file("etc/debian_version", "hull\n"), directory("usr/share/doc"),
			link(tar.TypeLink, "srv/deep", "etc/motd"),
			{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "srv/fifo", Mode: 0o600}},
			{Header: tar.Header{Typeflag: tar.TypeChar, Name: "srv/null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
			directory("srv/" + strings.Repeat("long", 40)),
		},
	}
}
