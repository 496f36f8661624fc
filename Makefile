# hull: containers in microVMs. "make" builds bin/hull and bin/lab, "make run" runs a
# container in a microVM, "make test" runs every test.
#
# What is built is kept in build/ and bin/; the kernel also in a cache of the user
# (images/kernel/build.sh says where), so that a clean checkout builds it once.

GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

# All that goes into a Go program: a change of any rebuilds them, which go makes cheap.
SOURCES := go.mod go.sum $(shell find cmd vmm kvm devices virtio guestinit images -type f -not -name '*_test.go' -not -path '*/testdata/*')
GUEST   := go.mod go.sum $(shell find guestinit images/mkguest images/scratch -type f -not -name '*_test.go')
PAYLOAD := build/initramfs.cpio build/uroot.ext4 build/uroot.json build/scratch.tmpl build/volume.tmpl build/hull-vmm

.DELETE_ON_ERROR:
.PHONY: all deps kernel run man test test-unit test-lab test-e2e test-long lint bench-api bench-boot bench-io bench-linux bench-snapshot chaos fuzz clean

all: bin/hull bin/lab

## Building

# Each target asks for the Debian packages it needs by a group of .ci/deps.
deps:
	.ci/deps build lab test

kernel: build/kernel/vmlinux

build/kernel/vmlinux: $(wildcard images/kernel/*.sh images/kernel/*.config images/kernel/patches/*)
	.ci/deps build
	images/kernel/build.sh build/kernel
	@touch $@

build/initramfs.cpio: $(GUEST)
	.ci/deps build
	$(GO) run ./images/mkguest -o build initramfs

build/uroot.ext4: $(GUEST)
	.ci/deps build
	$(GO) run ./images/mkguest -o build uroot

build/uroot.json: build/uroot.ext4 ;

build/scratch.tmpl: $(GUEST)
	.ci/deps build
	$(GO) run ./images/mkguest -o build scratch

build/volume.tmpl: $(GUEST)
	.ci/deps build
	$(GO) run ./images/mkguest -o build volume

build/hull-vmm: $(SOURCES)
	$(GOBUILD) -o $@ ./cmd/hull-vmm

build/hull: $(SOURCES)
	$(GOBUILD) -o $@ ./cmd/hull

bin/hull: build/hull build/kernel/vmlinux $(PAYLOAD)
	@mkdir -p bin
	$(GO) run ./images/mkbundle -o $@ -program build/hull vmlinux=build/kernel/vmlinux $(PAYLOAD)

bin/lab: $(SOURCES)
	$(GOBUILD) -o $@ ./cmd/lab

## Running

run: all
	@.ci/vm bin/hull run --rm uroot sh /etc/greeting

# A page of the manual for each command, in build/man.
man:
	MAN_DIR=$(CURDIR)/build/man $(GO) test -count=1 -run 'TestManPages$$' ./cmd/hull

## Testing

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt has something to say about:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

test-unit:
	$(GO) test -race -short ./...

# Boots machines, minutes.
test-lab:
	.ci/deps lab
	$(GO) test -timeout 30m ./cmd/lab

build/e2e.test: $(SOURCES) $(wildcard cmd/hull/*_test.go cmd/hull/testdata/*/*)
	CGO_ENABLED=0 $(GO) test -c -trimpath -o $@ ./cmd/hull

# Debian root filesystems for the end-to-end tests.
build/test/%.tar: .ci/debian-rootfs
	.ci/deps test
	.ci/debian-rootfs $* $@

test-e2e: all build/e2e.test build/test/debian.tar build/test/services.tar
	.ci/e2e

test:
	.ci/deps build lab test
	$(MAKE) all lint
	.ci/test

# The full size of what the end-to-end tests try with less: an hour or more where the lab is needed.
test-long: all build/e2e.test build/test/debian.tar build/test/services.tar
	.ci/deps lab test
	HULL_E2E_LONG=1 .ci/e2e -test.run 'TestScripts/vm/(share|network|tap|snapshots|snapshot_cycles|snapshot_copies)$$'

# Commands and SIGKILLs at random: TIME=10m of them on containers whose VM is a stand-in, then real VMs in the lab.
chaos: all build/e2e.test build/test/debian.tar
	.ci/deps lab
	CHAOS_TIME=$(or $(TIME),1m) $(GO) test -timeout 0 -run 'TestChaos$$' ./cmd/internal/engine
	CHAOS_ROUNDS=$${CHAOS_ROUNDS:-50} .ci/e2e -test.run TestChaos

FUZZTIME := $(or $(TIME),10s)
fuzz:
	.ci/fuzz $(FUZZTIME)

## Measuring

build/bootbench: $(SOURCES)
	$(GOBUILD) -o $@ ./cmd/internal/bootbench

build/gokvm: go.mod
	CGO_ENABLED=0 $(GO) build -o $@ github.com/bobuhiro11/gokvm

bench-boot: all build/bootbench build/gokvm
	.ci/deps lab
	build/bootbench host -hull bin/hull -hull-vmm build/hull-vmm
	.ci/bench-boot

build/iobench: $(SOURCES)
	$(GOBUILD) -o $@ ./cmd/internal/iobench

bench-io: build/hull-vmm build/iobench
	.ci/deps lab
	build/iobench

build/apibench: $(SOURCES)
	$(GOBUILD) -o $@ ./cmd/internal/apibench

bench-api: all build/apibench
	.ci/deps lab
	build/apibench

build/snapbench: $(SOURCES)
	$(GOBUILD) -o $@ ./cmd/internal/snapbench

bench-snapshot: all build/snapbench build/bootbench
	.ci/deps lab
	build/snapbench
	.ci/bench-boot warm

bench-linux: all build/iobench
	.ci/deps lab test
	.ci/bench-linux

clean:
	rm -rf bin build
