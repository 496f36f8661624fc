// Package jail confines the process of a VM, which it does to itself: once everything is open and before the guest's
// first instruction, for the rest of its life. A guest that takes the process over is left with what the process
// needs to go on.
//
//   - No new privileges (no_new_privs), and no capabilities but those that a share of root's needs.
//   - System calls by a list (seccomp): whatever has no place in a running VM ends the process at once, and what a
//     library may try without needing it is refused. Arguments are looked at where they matter.
//   - Paths (Landlock): nothing can be opened, made or removed but below shared directories, and what is to be removed
//     if the VM is orphaned. No TCP, no abstract sockets.
//   - Namespaces, if it was started in some (Isolate): an empty root directory.
//   - Limits: no core dumps, no more descriptors than now.
//
// All of it works for an ordinary user. What this host's kernel does not have is left out: Host tells. The engine adds
// what only whoever starts a process can do.
package jail
