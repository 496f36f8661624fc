// Package kvm speaks to the kernel's virtual machine monitor, /dev/kvm: its
// ioctls as methods, its shared run page as views, CPUID tables for a guest,
// and a probe that tells what kind of KVM a host has. It holds no policy: what
// a machine looks like is decided in package vmm.
//
// Three handles follow the three kinds of file descriptor that KVM has:
// System (/dev/kvm), VM and VCPU. Each must be kept until the last use of
// those below it, and closed by whoever opened it; none has a finalizer, since
// one that ran early would end a running VM.
//
// A VCPU belongs to the operating-system thread that runs it: Run must only be
// called there. Kick is the one method that any goroutine may call at any time.
//
// Register and state structures are those of github.com/bobuhiro11/gokvm where
// they are laid out as the kernel has them. The calls are made here all the
// same: a pointer must become a uintptr in the very expression of the system
// call, or the collector may move what it points at.
//
// Sources: Documentation/virt/kvm/api.rst and include/uapi/linux/kvm.h.
package kvm
